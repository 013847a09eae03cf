"""Exports of runs that are made by hand."""

import os
import secrets
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from sam_pipeline.exports.exporting import export
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.exports.masks import all_shapes, row
from tests.storage.runs import failed_row, plan, shard, take_over


@pytest.fixture
def make_run(tmp_path):
    """Make a finished run of rows; returns its folder."""

    def make(rows, num_images=None):
        output = str(tmp_path / f"run-{secrets.token_hex(4)}")
        plan(output, len(rows) if num_images is None else num_images)
        table = take_over(output, {"schema_version": 3, "max_pixels": 10**8})
        for part in filter(None, (rows[: len(rows) // 2], rows[len(rows) // 2 :])):
            table.commit([shard(output, part)])
        return output

    return make


@pytest.fixture
def exported(tmp_path, make_run):
    """Export rows, or a run; returns the folder and the summary."""

    def export_run(run, format, dest="export", selection=None, **settings):
        output = run if isinstance(run, str) else make_run(run)
        results = Results.open(output, {}, MaskSelection(**(selection or {})))
        place = dest if "://" in dest else str(tmp_path / dest)
        summary = export(results, place, ExportSettings(format=format, **settings))
        return Path(place), summary

    return export_run


@pytest.fixture
def every_shape():
    """Rows of three images: every kind of mask, none, and a failure."""
    return [row(0, all_shapes()), row(1, []), failed_row(2), row(3, all_shapes()[:2])]


@pytest.fixture(scope="session")
def readers(tmp_path_factory):
    """Run a program with other people's readers, in an environment of their own: supervision, datumaro, and so on.

    Returns a function of a program's text and its arguments, which gives what it prints.
    """
    folder = tmp_path_factory.mktemp("readers")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    requirements = Path(__file__).with_name("requirements-readers.txt")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
    subprocess.run(install, check=True, timeout=600)

    def run(program, *arguments):
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        command = [python, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        if done.returncode:
            sys.stderr.write(done.stderr)
            pytest.fail(f"the reader ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    return run
