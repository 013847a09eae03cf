"""Settings from a TOML or YAML file, as flags of the command line, so that both go through the same checks."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sam_pipeline.config import EstimateConfig, PlanConfig
from sam_pipeline.config.base import check_names, setting_names
from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import one_line, printable
from sam_pipeline.safety.regular_files import open_regular

_MAX_BYTES = 2**20
_MAX_DEPTH = 20
_MAX_BITS = 64


def config_flags(settings_class: type[PlanConfig], path: Path) -> list[str]:
    """The settings of a file as flags of a command; keys are flag names, with dashes or underscores.

    One file serves planning, estimating and annotating: settings that the command does not have are left out. A setting
    that is null, or an empty list, keeps its default.

    Args:
        settings_class: the settings that the command has.
        path: of the file.

    Raises:
        ConfigError: the file cannot be read, a key is no setting, or a value is of a kind that no setting has.
    """
    settings = _read(path)
    known = setting_names(EstimateConfig)
    try:
        check_names(settings, known)
    except ConfigError as error:
        raise ConfigError(f"cannot use {path}: {printable(str(error))}") from None
    taken = setting_names(settings_class)
    flags = []
    for name, value in settings.items():
        if name in taken and value is not None:
            try:
                flags += _flags(f"--{name.replace('_', '-')}", value)
            except ValueError as error:
                raise ConfigError(f"cannot use {path}: {name} {error}") from None
    return flags


def _flags(flag: str, value: Any) -> list[str]:
    """A setting as it is written on the command line.

    Raises:
        ValueError: it cannot be written there.
    """
    _check_kind(value)
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if not isinstance(value, list):
        return [f"{flag}={json.dumps(value) if isinstance(value, dict) else value}"]
    for item in value:
        if isinstance(item, bool | list | dict | None):
            raise ValueError(f"must be a list of text, but holds {printable(repr(item))[:60]}")
        if isinstance(item, str) and item.startswith("-"):
            raise ValueError(
                f"holds {printable(repr(item))[:60]}, which reads as a flag: write [-] for the dash in a pattern"
            )
    return [flag, *map(str, value)] if value else []


def _check_kind(value: object) -> None:
    """Refuse what YAML and TOML have besides text, numbers, switches, lists and mappings of these."""
    if isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_kind(inner)
    elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ValueError(f"holds a number of more than {_MAX_BITS} bits")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"holds a {type(value).__name__}: put it in quotes, if it is meant as text")


def _read(path: Path) -> dict[str, Any]:
    """The settings of a file by their names, each once."""
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"cannot read {path}: settings have at most {_MAX_BYTES} bytes")
        text = content.decode()
        # _Loader runs no code: it makes plain values, dates and bytes.
        loaded = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold settings by name")
    _check_depth(loaded, path)
    settings: dict[str, Any] = {}
    for key, value in loaded.items():
        name = key.replace("-", "_")
        if name in settings:
            raise ConfigError(f"{path} has {printable(name)} twice; give it once")
        settings[name] = value
    return settings


def _check_depth(loaded: object, path: Path) -> None:
    level: list[Any] = [loaded]
    for _ in range(_MAX_DEPTH):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise ConfigError(f"cannot read {path}: settings are nested more than {_MAX_DEPTH} levels deep")


class _Loader(yaml.SafeLoader):
    """YAML of bounded work: no aliases, which multiply what they name, bounded depth; keys are text, each once."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported: write the value out")
        if self._depth == _MAX_DEPTH:
            raise yaml.YAMLError(f"settings are nested more than {_MAX_DEPTH} levels deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if not isinstance(key, str):
                raise yaml.YAMLError(f"keys must be text, got {printable(repr(key))[:60]}")
            if key in keys[:number]:
                raise yaml.YAMLError(f"{printable(key)[:60]} is there twice; give it once")
        return super().construct_mapping(node, deep)
