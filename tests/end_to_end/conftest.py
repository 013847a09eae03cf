"""Fixtures of the end-to-end tests: photographs, and one undisturbed run over them to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.pictures import save_photos
from tests.end_to_end.settings import NUM_PHOTOS, SETTINGS, SMALL_SHARDS
from tests.end_to_end.tables import Row, read_rows
from tests.processes import Finished, Start


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
