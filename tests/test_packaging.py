"""The package as others get it: built, installed beside each Python that is here, read by a type checker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import sam_pipeline
from tests.storage.image_files import noise, saved

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()

MINORS = range(11, 20)
"""Of Python 3."""


def run(*command: object, env: dict[str, str] | None = None) -> str:
    """Run a program in an environment without this project's path; returns what it printed."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(
        [str(part) for part in command], env=clean | (env or {}), capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


def interpreters() -> dict[str, str]:
    """Every CPython that the project may run on and that is on this machine: version \u2192 program."""
    env = os.environ.copy()
    if pyenv := shutil.which("pyenv"):  # its programs answer for versions that are switched on
        versions = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, timeout=60)
        env["PYENV_VERSION"] = ":".join(versions.stdout.split())
    found = {f"3.{sys.version_info.minor}": sys.executable}
    for minor in MINORS:
        code = "import platform, sys; print(platform.python_implementation(), sys.executable)"
        if (program := shutil.which(f"python3.{minor}")) and f"3.{minor}" not in found:
            answer = subprocess.run([program, "-c", code], env=env, capture_output=True, text=True, timeout=60)
            if answer.returncode == 0 and answer.stdout.startswith("CPython "):
                found[f"3.{minor}"] = answer.stdout.split(maxsplit=1)[1].strip()
    supported = SpecifierSet(PROJECT["requires-python"])
    return {version: program for version, program in sorted(found.items()) if version in supported}


def test_the_readme_links_to_nothing_that_a_package_index_does_not_have() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("https://")] == []


def test_the_versions_that_are_named_are_those_that_may_be_installed() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named
    assert [version for version in named if version not in SpecifierSet(PROJECT["requires-python"])] == []
    assert "Typing :: Typed" in PROJECT["classifiers"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a package is built from; building leaves others beside them."""
    folder = tmp_path_factory.mktemp("source")
    tracked = run("git", "-C", ROOT, "ls-files", "-z").split("\0")
    for name in tracked:
        if name and (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built as for a package index."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (found,) = folder.iterdir()
    return found


@pytest.mark.soak
def test_the_wheel_holds_every_module_and_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        about = message_from_bytes(archive.read(metadata))
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "sam_pipeline").rglob("*.py")}
    assert {name for name in names if name.startswith("sam_pipeline/")} == {*expected, "sam_pipeline/py.typed"}
    assert (about["Name"], about["Version"]) == ("sam-pipeline", sam_pipeline.__version__)
    assert about.get_all("Classifier") == PROJECT["classifiers"]


TYPED = """
from pathlib import Path
from sam_pipeline import annotate, open_run
reveal_type(open_run(Path("run")).num_images)
annotate(input=Path("photos"), output="run", model_type="vit_t", points_per_side=16, keep=["label"])
annotate(output="run", points_per_sid=16)
from sam_pipeline import SamPredictor, build_sam, sam_model_registry
reveal_type(build_sam(checkpoint="sam.pth").image_encoder.img_size)
reveal_type(SamPredictor(sam_model_registry["vit_b"]()).device)
"""


@pytest.mark.soak
@pytest.mark.parametrize("flags", [[], ["--editable"]], ids=["installed", "editable"])
def test_a_type_checker_reads_the_installed_package(source: Path, tmp_path: Path, flags: list[str]) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *flags, source)
    (tmp_path / "program.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "--no-incremental", "--config-file="]
    checked = subprocess.run(
        [*command, tmp_path / "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    lines = [line.split("program.py:")[1] for line in checked.stdout.splitlines() if "program.py:" in line]
    assert lines[0] == '4: note: Revealed type is "int"', checked.stdout
    assert '8: note: Revealed type is "int"' in lines
    errors = [line for line in lines if " error: " in line]
    assert errors[0].startswith('6: error: Unexpected keyword argument "points_per_sid"')
    assert {line.split(":")[0] for line in errors} == {"6"}


@pytest.mark.soak
@pytest.mark.parametrize("version", interpreters())
def test_it_plans_and_verifies_with_every_python_that_is_here(version: str, wheel: Path, tmp_path: Path) -> None:
    """Without torch: of most versions there is only a build of gigabytes, and these commands do without."""
    # A space in the path, as people have.
    folder = tmp_path / "with a space"
    folder.mkdir()
    run(interpreters()[version], "-m", "venv", folder / "env")
    python = folder / "env" / "bin" / "python"
    needed = [line for line in PROJECT["dependencies"] if Requirement(line).name != "torch"]
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-c", ROOT / "constraints.txt", *needed)
    run(*pip, "--no-deps", wheel)
    program = folder / "env" / "bin" / "sam-pipeline"
    assert run(program, "--version") == f"sam-pipeline {sam_pipeline.__version__}\n"
    assert run(python, "-m", "sam_pipeline", "--version") == run(program, "--version")
    for command in ([], ["annotate"], ["verify"]):
        assert "Example" in run(program, *command, "--help")
    (folder / "photos").mkdir()
    for index in range(2):
        (folder / "photos" / f"{index}.png").write_bytes(saved(noise(seed=index), "PNG"))
    output = folder / "my run"
    assert re.search(r"images +2\n", run(program, "plan", "--input", folder / "photos", "--output", output))
    assert re.search(r"images +2\n", run(program, "status", output))
    verified = subprocess.run([program, "verify", output], capture_output=True, text=True, timeout=120)
    assert (verified.returncode, re.search(r"left +(\d)", verified.stdout).group(1)) == (1, "2")
    code = "import sam_pipeline; print(sam_pipeline.AnnotateConfig(output='x').given())"
    assert run(python, "-c", code) == "{'output': 'x'}\n"


@pytest.mark.soak
def test_the_source_archive_holds_what_the_readme_names(source: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "setuptools>=77")
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run("/usr/bin/env", "-C", source, python, "-c", code, tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    for name in set(re.findall(r"`([A-Z]+\.md|infra/README\.md|jobs/annotate\.py|constraints\.txt)`", README)):
        assert name in names
