"""Base of all classes of settings: it checks types, and remembers which settings were given and which are defaults."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from sam_pipeline.errors import ConfigError

_MOST = 1_000_000_000


class Settings:
    """Base of frozen dataclasses of settings, whose arguments are given by keyword.

    A field may be a string, an integer, a number, True or False, a choice (Literal), a tuple of strings, a mapping,
    other Settings, or None beside any of these. A path becomes a string, a list a tuple, a number of NumPy one of
    Python.

    A copy by `dataclasses.replace` counts every setting as given.
    """

    _given: frozenset[str]

    if not TYPE_CHECKING:  # type checkers show the arguments of __init__ instead

        def __new__(cls, **settings: object) -> Self:
            """Remember which settings are given: one that is given as its default counts as given."""
            self = super().__new__(cls)
            object.__setattr__(self, "_given", frozenset(settings))
            return self

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting of another type."""
        for name, hint in hints_of(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), hint))

    def by_name(self) -> dict[str, Any]:
        """All settings by name; those of nested Settings among them."""
        return self._flat(hints_of(type(self)), Settings.by_name)

    def given(self) -> dict[str, Any]:
        """The settings that were given, by name; those of nested Settings among them."""
        return self._flat(self._given, Settings.given)

    def _flat(self, names: Iterable[str], nested: Callable[[Settings], dict[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in names:
            value = getattr(self, name)
            values |= nested(value) if isinstance(value, Settings) else {name: value}
        return values


AnySettings = TypeVar("AnySettings", bound=Settings)


def setting_names(settings_class: type[Settings]) -> list[str]:
    """Names of all settings of a class; those of nested Settings among them."""
    names: list[str] = []
    for name, hint in hints_of(settings_class).items():
        names += setting_names(hint) if is_settings(hint) else [name]
    return names


def settings_by_name(settings_class: type[AnySettings], values: Mapping[str, Any]) -> AnySettings:
    """Make settings, and the nested ones, of values by name.

    Raises:
        ConfigError: there is no setting of a name, or one that is needed is missing.
    """
    check_names(values, setting_names(settings_class))
    if missing := [name for name in hints_of(settings_class) if name not in {*defaults_of(settings_class), *values}]:
        raise ConfigError(f"{' and '.join(missing)} must be given")
    return _made(settings_class, values)


def check_names(names: Collection[str], known: Collection[str]) -> None:
    """Refuse names that no setting has.

    Raises:
        ConfigError: naming each, and the one that is nearest to it.
    """
    unknown = []
    for name in sorted(set(names) - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        unknown.append(f"{name} (did you mean {near[0]}?)" if near else name)
    if unknown:
        raise ConfigError(f"there is no setting {', '.join(unknown)}")


def hints_of(settings_class: type[Settings]) -> dict[str, Any]:
    """The type of each field by name; nested Settings are one field."""
    hints = get_type_hints(settings_class)
    # Settings itself is no dataclass; its subclasses are.
    return {item.name: hints[item.name] for item in dataclasses.fields(settings_class)}  # type: ignore[arg-type]


def defaults_of(settings_class: type[Settings]) -> dict[str, Any]:
    """The default of each field that has one, by name."""
    defaults: dict[str, Any] = {}
    for item in dataclasses.fields(settings_class):  # type: ignore[arg-type]  # as above
        if item.default is not dataclasses.MISSING:
            defaults[item.name] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            defaults[item.name] = item.default_factory()
    return defaults


def _made(settings_class: type[AnySettings], values: Mapping[str, Any]) -> AnySettings:
    arguments: dict[str, Any] = {}
    for name, hint in hints_of(settings_class).items():
        if is_settings(hint):
            arguments[name] = _made(hint, values)
        elif name in values:
            arguments[name] = values[name]
    return settings_class(**arguments)


def is_settings(hint: object) -> bool:
    """Whether the type of a field is that of nested Settings."""
    return isinstance(hint, type) and issubclass(hint, Settings)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """A value as the type that its setting has.

    Raises:
        ConfigError: it is of another type.
    """
    if get_origin(hint) is UnionType:
        if value is None:
            return None
        (hint,) = set(get_args(hint)) - {NoneType}
    kind = get_origin(hint) or hint
    if kind is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise _wrong(name, f"one of {', '.join(get_args(hint))}", value)
    if kind is Mapping:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return dict(value)
        # The value is not shown: it may hold a credential that was not to be given this way.
        raise ConfigError(f"{name} must be a mapping with names as keys, such as {{'anon': True}}")
    if kind is tuple:
        if isinstance(value, list | tuple):
            return tuple(_checked(f"each of {name}", item, get_args(hint)[0]) for item in value)
        raise _wrong(name, "a list of strings" + (f", such as [{value!r}]" if isinstance(value, str) else ""), value)
    return _checked_scalar(name, value, kind)


def _checked_scalar(name: str, value: Any, kind: Any) -> Any:
    is_switch = isinstance(value, bool)
    if kind is str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            return value
        raise _wrong(name, "a string", value)
    if kind is bool:
        if is_switch:
            return value
        raise _wrong(name, "True or False", value)
    if kind is int:
        if isinstance(value, Integral) and not is_switch:
            return int(value)
        raise _wrong(name, "an integer", value)
    if kind is float:
        if isinstance(value, int | float) and not is_switch:
            return value
        if isinstance(value, Real) and not is_switch:
            return float(value)
        raise _wrong(name, "a number", value)
    if isinstance(value, kind):
        return value
    raise _wrong(name, f"a {kind.__name__}", value)


def _wrong(name: str, requirement: str, value: object) -> ConfigError:
    return ConfigError(f"{name} must be {requirement}, got {value!r}")


def check(ok: bool, name: str, requirement: str, value: object) -> None:
    """Raise ConfigError unless a setting is what it must be."""
    if not ok:
        raise _wrong(name, requirement, value)


def check_amount(name: str, value: float | None) -> None:
    """Refuse what is not above 0, and what is too much for clocks and counters; None is a default."""
    check(value is None or value > 0, name, "above 0", value)
    check(value is None or value <= _MOST, name, f"at most {_MOST}", value)


def check_place(name: str, value: str | None) -> None:
    """Refuse an empty path or URI; None is a default."""
    check(value is None or bool(value.strip()), name, "a path or URI", value)
