"""Settings from a TOML or YAML file, as flags of the command line, so that both go through the same checks."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sam_pipeline.clean_text import one_line, printable
from sam_pipeline.config import AnnotateConfig, PlanConfig
from sam_pipeline.errors import ConfigError
from sam_pipeline.regular_files import open_regular

_MAX_BYTES = 2**20
_MAX_DEPTH = 20


def config_flags(command: str, path: Path) -> list[str]:
    """The settings of a file as flags of a command; keys are flag names, with dashes or underscores.

    Settings of annotate that plan does not have are left out for plan. A setting that is null keeps its default.

    Raises:
        ConfigError: the file cannot be read, or a key is no setting.
    """
    settings = _read(path)
    known = _setting_names(AnnotateConfig)
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"unknown settings in {path}: {printable(', '.join(unknown))}")
    taken = _setting_names(PlanConfig) if command == "plan" else known
    flags = []
    for name, value in settings.items():
        if name not in taken or value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            flags += [flag, json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return flags


def _read(path: Path) -> dict[str, Any]:
    """The settings of a file by their names, each once."""
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"cannot read {path}: settings have at most {_MAX_BYTES} bytes")
        text = content.decode()
        # _Loader makes no objects but text, numbers, lists and mappings.
        loaded = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, _Loader)
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


def _setting_names(config_class: type) -> set[str]:
    names: set[str] = set()
    for item in dataclasses.fields(config_class):
        factory = item.default_factory
        names |= _setting_names(factory) if dataclasses.is_dataclass(factory) else {item.name}
    return names


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
