"""Settings as flags: one flag for each, with the text that documents the setting; only what is given is passed on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Required, TypedDict, get_args, get_origin

import tyro
from docstring_parser import parse_from_object
from tyro.constructors import PrimitiveConstructorSpec

from sam_pipeline.config.base import AnySettings, Settings, defaults_of, hints_of, is_settings, settings_by_name
from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import one_line

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""A flag without a value, which is off unless it is given."""

AsJson = Annotated[Switch, tyro.conf.arg(name="json")]
"""The flag --json; a parameter json would hide the module."""


def json_object(text: str) -> dict[str, Any]:
    """Parse options that are given as JSON.

    Raises:
        ConfigError: they are no JSON object.
    """
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        # The value itself is not shown: it may hold a credential that was not to be given this way.
        raise ConfigError(f"storage_options must be a JSON object: {one_line(error)}") from None
    if not isinstance(options, dict):
        raise ConfigError(f"storage_options must be a JSON object, not {type(options).__name__}")
    return options


JsonObject = Annotated[
    Mapping[str, Any],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: json_object(texts[0]),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [json.dumps(dict(value))],
    ),
    tyro.conf.arg(help_behavior_hint=""),
]
"""The type of a flag that takes a JSON object."""

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def flags_of(settings_class: type[AnySettings]) -> Any:
    """The annotation with which tyro makes flags of a command out of a settings class."""
    groups = [name for name, hint in hints_of(settings_class).items() if is_settings(hint)]

    def make(settings: Any) -> AnySettings:
        values = dict(settings)
        for name in groups:
            values |= values.pop(name, {})
        # With --extend an empty value drops the plan's own.
        empty = [name for name, value in values.items() if value == ()]
        if empty and not values.get("extend"):
            raise ConfigError(f"--{empty[0].replace('_', '-')} has no value; give it some, or leave it out")
        return settings_by_name(settings_class, values)

    make.__annotations__ = {"settings": Annotated[_flags(settings_class), tyro.conf.arg(name="")]}
    return tyro.conf.arg(name="", constructor=make)


def _flags(settings_class: type[Settings]) -> Any:
    """A TypedDict whose keys are settings, those of nested Settings below a heading; none has a default."""
    texts, defaults = _texts(settings_class), defaults_of(settings_class)
    flags: dict[str, Any] = {}
    for name, hint in hints_of(settings_class).items():
        if is_settings(hint):
            flags[name] = _flags(hint)
        elif name in defaults:
            flags[name] = Annotated[
                _flag_type(hint), tyro.conf.arg(help=texts[name], help_behavior_hint=_default_text(defaults[name]))
            ]
        else:
            flags[name] = Required[Annotated[_flag_type(hint), tyro.conf.arg(help=texts[name])]]
    # The flags are known only here, and mypy wants them written out.
    made: Any = TypedDict("Flags", flags, total=False)  # type: ignore[misc]  # as said
    made.__doc__ = settings_class.__doc__
    return made


def _default_text(default: object) -> str:
    """The default as help shows it; empty if there is none, or if the setting's text explains it."""
    return "" if default is None or default is False or default in ((), {}) else f"(default: {default})"


def _texts(settings_class: type[Settings]) -> dict[str, str]:
    """What documents each setting, as one paragraph."""
    texts: dict[str, str] = {}
    for base in settings_class.__mro__[:-1]:
        for entry in parse_from_object(base).params:
            texts.setdefault(entry.arg_name, " ".join((entry.description or "").split()))
    return texts


def _flag_type(hint: Any) -> Any:
    """The type of a flag: without None, which means that it is not given."""
    if get_origin(hint) is UnionType:
        (hint,) = set(get_args(hint)) - {NoneType}
    return JsonObject if get_origin(hint) is Mapping else hint
