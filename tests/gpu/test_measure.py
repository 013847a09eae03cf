"""The measurements for a borrowed GPU, dry on a CPU, with nothing importable that such a machine lacks."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.gpu.bench import DRY, Bench
from tests.gpu.instruments.results import STEP, append_row, read_rows, write_summary
from tests.gpu.pack import pack
from tests.gpu.running import STEPS, TOTAL_S, Step, run_steps

FOLDER = Path(__file__).parent
ON_THE_MACHINE = {
    "torch", "triton", "numpy", "scipy", "pillow", "numba", "llvmlite", "opencv-python-headless", "fsspec", "requests",
    "urllib3", "certifi", "charset-normalizer", "idna", "packaging", "safetensors", "psutil", "pyyaml", "tqdm", "rich",
    "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "typing-extensions", "setuptools",
    "markdown-it-py", "mdurl", "pygments",
}  # fmt: skip
"""What the measurements need of its image."""

BLOCKER = """
import sys
from importlib.machinery import PathFinder

class Rest(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in BLOCKED else super().find_spec(name, path, target)

sys.meta_path = [Rest if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture
def bench(tmp_path):
    return Bench(DRY, tmp_path / "pack", tmp_path, tmp_path)


@pytest.mark.soak  # a minute; run it before a GPU is borrowed, and after changes of what the steps measure
@pytest.mark.weights
def test_every_step_passes_dry_where_only_what_the_machine_has_can_be_imported(tmp_path):
    pack(tmp_path / "pack")
    environment = environment_without(missing_modules(), tmp_path / "blocker")
    output = tmp_path / "output"
    command = [sys.executable, "-m", "tests.gpu", "--dry", "--pack", str(tmp_path / "pack"), "--output", str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    ends = {row["step"]: row["status"] for row in read_rows(output) if row["name"] == STEP}
    assert ends == dict.fromkeys((step.name for step in STEPS), "passed"), done.stdout + done.stderr
    assert done.returncode == 0
    launches = {row["name"]: row["launches"] for row in read_rows(output) if "ms" in row and row["step"] == "launches"}
    on_cpu = [launches.pop(f"{call}, as it is") for call in ("measuring", "edges")]
    assert on_cpu == [0, 0], "on a CPU Numba measures and finds edges"
    assert all(launches.values()), launches
    assert (output / "summary.md").read_text() in done.stdout


def missing_modules():
    """Modules of installed packages that are neither on the machine nor carried there."""
    carried = (line for line in (FOLDER / "carried.txt").read_text().splitlines() if not line.startswith("#"))
    there = ON_THE_MACHINE | set(carried)
    installed = {
        module: {name.lower().replace("_", "-") for name in names} for module, names in packages_distributions().items()
    }
    blocked = {module for module, names in installed.items() if not names & there} - {"sam_pipeline"}
    assert {"ray", "deltalake", "tyro"} <= blocked
    return blocked


def environment_without(modules, folder):
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"BLOCKED = {modules!r}\n{BLOCKER}")
    path = os.pathsep.join([str(folder), str(FOLDER.parents[1])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def test_the_limits_of_all_steps_fit_into_a_command():
    assert sum(step.limit_s for step in STEPS) <= TOTAL_S < 9 * 60


BROKEN_STEPS = {
    "raising": """
def cases(bench):
    yield "first", lambda: 1 / 0
    yield "second", lambda: {"answer": 42}
""",
    "hanging": """
import time
def cases(bench):
    yield "first", lambda: {"answer": 42}
    yield "second", lambda: time.sleep(1000)
""",
    "dying": """
import os
def cases(bench):
    yield "first", lambda: os.abort()
""",
    "unprepared": """
def cases(bench):
    yield "first", lambda: {"answer": 42}
    raise OSError("no weights")
""",
    "working": """
def cases(bench):
    yield "first", lambda: {"answer": 42}
""",
}


def test_a_step_that_fails_hangs_or_dies_costs_only_itself(bench, monkeypatch):
    for name, text in BROKEN_STEPS.items():
        (bench.output / f"{name}_step.py").write_text(text)
    monkeypatch.syspath_prepend(bench.output)
    steps = [Step(name, f"{name}_step", 0.5 if name == "hanging" else 5) for name in BROKEN_STEPS]
    assert not run_steps(bench, steps, total_s=300)
    rows = read_rows(bench.output)
    found = {
        name: [
            (row["name"], row.get("answer") or row.get("error") or row["status"]) for row in rows if row["step"] == name
        ]
        for name in BROKEN_STEPS
    }
    assert found == {
        "raising": [
            ("first", "ZeroDivisionError: division by zero"),
            ("second", 42),
            ("step", "failed, exit code 1"),
        ],
        "hanging": [("first", 42), ("step", "ended after 10 s")],
        "dying": [("step", "failed, exit code -6")],
        "unprepared": [("first", 42), ("preparation", "OSError: no weights"), ("step", "failed, exit code 1")],
        "working": [("first", 42), ("step", "passed")],
    }
    assert "ended after 10 s" in (bench.output / "summary.md").read_text()


def test_without_time_left_a_step_is_not_begun(bench):
    assert not run_steps(bench, [Step("late", "no.such.module", 60)], total_s=1)
    assert [row["status"] for row in read_rows(bench.output)] == ["no time left"]


def test_kernels_that_did_not_run_are_named():
    pytest.importorskip("triton", reason="Triton is for Linux on x86-64")
    # Not above: tests of the kernels have Triton imported as an interpreter.
    from tests.gpu.instruments.kernels import DECODING, counted_launches, require

    with counted_launches() as launches:
        launches["attend"] += 1
    with pytest.raises(AssertionError, match=r"no launch of fold_first, .*, upscale"):
        require(launches, DECODING)
    require(launches, ["attend"])


def test_the_table_has_the_figures_of_every_row_and_no_lists(tmp_path):
    append_row(tmp_path, "parts", "decoder", {"ms": 12.345678, "kernels": [{"kernel": "attend"}]})
    append_row(tmp_path, "parts", STEP, {"status": "passed"})
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["ms"] == 12.35
    assert write_summary(tmp_path).splitlines()[2:] == [
        "| parts | step | status passed |",
        "| parts | decoder | ms 12.35 |",
    ]
