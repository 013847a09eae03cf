"""Fixtures of the end-to-end tests: an environment, the command line in it, and one undisturbed run to compare with."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.pictures import save_photos
from tests.end_to_end.processes import Finished, Program
from tests.end_to_end.settings import NUM_PHOTOS, SCRIPTS, SETTINGS, SMALL_SHARDS
from tests.end_to_end.tables import Row, read_rows
from tests.s3_server import s3

__all__ = ["s3"]

Start = Callable[..., Program]
"""(*arguments, env=more variables, script="sam-pipeline") → the running script of the virtual environment."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing interrupted."""

    input: Path
    output: Path
    finished: Finished
    rows: list[Row]
    peak_memory_bytes: int
    """Of the driver, Ray and the workers together."""


@pytest.fixture(scope="session")
def base_env(vit_t_checkpoint: Path) -> Iterator[dict[str, str]]:
    """An environment with the weights, without credentials or clusters of whoever runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "SAM_PIPELINE_"))}
    # Not pytest's folder: Ray puts Unix sockets there, and their paths must stay short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray_folder:
        yield env | {
            "SAM_PIPELINE_CACHE": str(vit_t_checkpoint.parent),
            "RAY_TMPDIR": ray_folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray would write one into the home folder
        }


@pytest.fixture(scope="session")
def start(base_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start programs; whatever is still running in the end is killed."""
    started: list[Program] = []

    def start_program(
        *arguments: object, env: Mapping[str, str] | None = None, script: str = "sam-pipeline"
    ) -> Program:
        command = [str(SCRIPTS / script), *map(str, arguments)]
        started.append(Program(command, base_env | dict(env or {}), tmp_path_factory.mktemp("program")))
        return started[-1]

    yield start_program
    for program in started:
        program.kill()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small photographs."""
    return save_photos(tmp_path_factory.mktemp("input") / "photos", NUM_PHOTOS)


@pytest.fixture(scope="session")
def undisturbed(photos: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A run over the photographs on local disk, with two CPUs."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    arguments = ("--input", photos, "--output", output, *SETTINGS, *SMALL_SHARDS, "--num-cpus", 2)
    program, memory_bytes = start("annotate", *arguments), [0]
    finished = program.wait(watch=lambda: memory_bytes.append(program.memory_bytes()))
    assert finished.exit_code == 0, finished.stderr
    return Undisturbed(photos, output, finished, read_rows(str(output)), max(memory_bytes))
