"""Arguments before they are parsed: settings of a file are put in, and mistakes that tyro lets through are refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from sam_pipeline.cli.help import COMMANDS
from sam_pipeline.config import AnnotateConfig, EstimateConfig, PlanConfig
from sam_pipeline.config.files import config_flags
from sam_pipeline.errors import ConfigError

_PLACES = ("--input", "--output", "--image-root", "--prompts", "--prompt-images", "--regions")


def check_order(arguments: Sequence[str]) -> None:
    """Refuse flags before the command.

    Raises:
        ConfigError: naming the first.
    """
    if arguments and arguments[0].startswith("-"):
        flag = arguments[0].partition("=")[0]
        raise ConfigError(f"the command comes before its flags: sam-pipeline {{{','.join(COMMANDS)}}} {flag} …")


def with_config(arguments: Sequence[str], path: Path) -> list[str]:
    """The settings of a file before the flags of the command, which win over them.

    Raises:
        ConfigError: the command takes no settings, or the file cannot be used.
    """
    if not arguments:
        return []
    command, *flags = arguments
    if command in COMMANDS and command not in ("annotate", "plan"):
        raise ConfigError(f"--config is for annotate and plan; {command} takes no settings from a file")
    return [command, *config_flags(_settings_of(command, flags), path), *flags]


def _settings_of(command: str, flags: Sequence[str]) -> type[PlanConfig]:
    if command == "plan":
        return EstimateConfig if "--estimate" in flags else PlanConfig
    return AnnotateConfig


def check_patterns(flags: Sequence[str]) -> None:
    """Refuse several values where one is meant: most often the shell put the files in the place of a pattern.

    Raises:
        ConfigError: saying how a pattern is written.
    """
    for position, flag in enumerate(flags):
        if flag in _PLACES:
            values = list(itertools.takewhile(lambda value: not value.startswith("-"), flags[position + 1 :]))
            if len(values) > 1 and flags[0] == "amg":
                raise ConfigError(f"{flag} takes one image or folder, got {len(values)} values; amg knows no patterns")
            if len(values) > 1:
                raise ConfigError(
                    f"{flag} takes one value, got {len(values)} ({values[0]} {values[1]} …): put a pattern in quotes, "
                    f"as in {flag} 'photos/*.jpg', or else the shell puts the files in its place"
                )


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse a flag that is given twice, of which the last would count in silence.

    Raises:
        ConfigError: naming the flag.
    """
    given: set[str] = set()
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            continue
        flag = argument.partition("=")[0].replace("_", "-")
        name = flag.removeprefix("--no-").removeprefix("--")
        if name in given:
            raise ConfigError(f"--{name} is given twice; give it once, with all its values")
        given.add(name)


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag, before anything is parsed; None where it is not given."""
    for position, argument in reversed(list(enumerate(arguments))):
        name, is_joined, value = argument.partition("=")
        if name == flag and is_joined:
            return value
        if name == flag and position + 1 < len(arguments):
            return arguments[position + 1]
    return None
