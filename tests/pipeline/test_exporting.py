"""Exports on a Ray cluster, against those of the command without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam_pipeline.exports.places.destination import OWN_FOLDER
from tests.exports.masks import all_shapes, prompted, row, shapes
from tests.storage.runs import failed_row, finished

ROOT = Path(__file__).parents[2]

# Parts of four images, so that a small run has several.
SMALL_PARTS = """
import sys
from dataclasses import replace
import ray
from sam_pipeline.cli.commands import main
from sam_pipeline.exports.formats import FORMATS
FORMATS.update({name: replace(form, part_images=4) for name, form in FORMATS.items()})
if "--on-ray" in sys.argv:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
main(sys.argv[1:])
"""


def files_below(folder):
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and OWN_FOLDER not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def command(script, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *script, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.mark.soak
@pytest.mark.parametrize(
    "flags",
    [["--format", "coco", "--split", "0.7", "--max-masks", "2"], ["--format", "sa1b"]],
    ids=" ".join,
)
def test_an_export_on_ray_writes_the_files_of_the_command(tmp_path, flags):
    rows = [row(number, all_shapes()[: number % 4]) for number in range(10)] + [failed_row(10)]
    finished(str(tmp_path / "run"), rows, 12)
    alone = command(["-c", SMALL_PARTS], "export", tmp_path / "run", tmp_path / "alone", *flags)
    on_ray = command(["-c", SMALL_PARTS], "export", tmp_path / "run", tmp_path / "on-ray", *flags, "--on-ray")
    assert (alone.returncode, on_ray.returncode) == (0, 0), on_ray.stderr
    *said_on_ray, _ = on_ray.stdout.replace("on-ray", "alone").splitlines()
    assert said_on_ray == alone.stdout.splitlines()[:-1]
    assert files_below(tmp_path / "on-ray") == files_below(tmp_path / "alone")


@pytest.mark.soak
def test_an_error_of_a_part_is_one_line(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n")
    rows = [row(0, [prompted(shapes()["disc"], 5)]), row(1, [])]
    finished(str(tmp_path / "run"), rows)
    arguments = (tmp_path / "run", tmp_path / "coco", "--format", "coco")
    done = command([str(ROOT / "jobs" / "export.py")], *arguments)
    assert done.returncode == 2
    assert "error: category 5 has no name" in done.stderr
    assert "Traceback" not in done.stderr
    (next((tmp_path / "run" / "masks").glob("*.parquet"))).write_bytes(b"damaged")
    done = command([str(ROOT / "jobs" / "export.py")], *arguments, "--categories", tmp_path / "names.txt")
    assert done.returncode == 2, done.stderr
