import re
import subprocess
import sys

import pytest
from importlinter.application.use_cases import SUCCESS, lint_imports
from importlinter.configuration import configure


def python(code, *blocked):
    """Run code in a new interpreter in which the named packages cannot be imported; returns what it printed."""
    blocker = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise AssertionError(f"{{name}} must not be imported here")

sys.meta_path.insert(0, Blocker())
"""
    done = subprocess.run([sys.executable, "-c", blocker + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def import_all(*packages):
    return f"""
import importlib.util, pkgutil
for package in {packages!r}:
    module = importlib.import_module(package)
    for item in pkgutil.walk_packages(getattr(module, "__path__", []), package + "."):
        if ".triton_" not in item.name or importlib.util.find_spec("triton"):  # for Linux on x86-64
            importlib.import_module(item.name)
"""


def test_the_blocker_blocks():
    with pytest.raises(AssertionError, match=r"ray must not be imported here"):
        python("import sam_pipeline.pipeline.run", "ray")


def test_the_contracts_of_import_linter_hold(pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    configure()
    assert lint_imports(cache_dir=None) == SUCCESS


def test_jobs_and_the_package_import_neither_tests_nor_benchmarks(pytestconfig):
    for folder in ("jobs", "sam_pipeline"):
        for path in (pytestconfig.rootpath / folder).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) (tests|benchmarks)\b", path.read_text(), re.MULTILINE), path


def test_importing_the_package_costs_nothing():
    python("import sam_pipeline", "torch", "ray", "numpy", "pyarrow", "fsspec", "PIL", "deltalake")


def test_settings_and_errors_cost_nothing_either():
    names = "AnnotateConfig, MaskConfig, ModelConfig, PlanConfig, PoolConfig, SamPipelineError"
    python(f"from sam_pipeline import {names}", "torch", "ray", "numpy", "pyarrow", "fsspec", "PIL", "deltalake")


def test_reading_a_run_needs_neither_torch_nor_ray():
    python("from sam_pipeline import Run, annotate, decode_mask, open_run", "torch", "ray")


def test_the_lower_layers_need_no_ray():
    packages = ("model", "masks", "storage", "config", "errors")
    python(import_all(*(f"sam_pipeline.{name}" for name in packages)), "ray")


def test_what_has_the_official_paths_needs_neither_ray_nor_torchvision():
    official = ("automatic_mask_generator", "build_sam", "predictor", "modeling", "utils")
    python(import_all(*(f"sam_pipeline.{name}" for name in official)), "ray", "torchvision", "segment_anything")


def test_the_masks_need_neither_files_nor_tables():
    python(import_all("sam_pipeline.masks"), "ray", "fsspec", "pyarrow", "deltalake", "s3fs")


def test_the_storage_needs_no_torch():
    python(import_all("sam_pipeline.storage"), "torch", "ray")


def test_the_stages_need_no_torch_before_an_actor_is_built():
    python("import sam_pipeline.pipeline.workers.stages", "torch")


def test_planning_needs_neither_torch_nor_ray():
    python("import sam_pipeline.pipeline.plan, sam_pipeline.pipeline.machines.resources", "torch", "ray")


def test_the_command_line_answers_before_it_loads_what_a_run_needs():
    heavy = ("torch", "ray", "pyarrow", "deltalake", "fsspec")
    python("import sam_pipeline.cli.commands", *heavy)
