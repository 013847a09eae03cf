"""What Triton's interpreter takes, its compiler may refuse. No GPU is needed to compile for one."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

SHARED_MEMORY = 227 * 1024  # of a program on Hopper

COMPILE_ALL = """
import json
from benchmarks.measured.compiled_kernels import compile_kernels
print(json.dumps([kernel._asdict() for kernel in compile_kernels({capability})]))
"""

COMPILE_MEASURING = """
import json, torch
from benchmarks.measured.compiled_kernels import compiled_instead_of_launched
from sam_pipeline.masks.full_resolution import composed_resize, triton_masks
axis = composed_resize.composed_axis(256, 1024, 2250)
kernels = []
for capability in (75, 80, 86, 89, 90):
    with compiled_instead_of_launched(capability) as launches:
        triton_masks.measure_masks(torch.zeros(2, 256, 256), axis, axis, 0.0, 1.0)
    kernels += [launch.compiled._asdict() for launch in launches]
print(json.dumps(kernels))
"""


@pytest.fixture
def compile_by(pytestconfig, tmp_path):
    """A function: program in Python that prints kernels as JSON → those kernels, compiled, not from a cache."""

    def compile_by(program):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["TRITON_CACHE_DIR"] = str(tmp_path)
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=pytestconfig.rootpath, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return compile_by


def test_measuring_needs_little_of_any_gpu(compile_by):
    kernels = compile_by(COMPILE_MEASURING)
    assert [kernel["capability"] for kernel in kernels] == [75, 80, 86, 89, 90]
    for kernel in kernels:
        assert kernel["spilled_bytes"] == 0, kernel
        assert kernel["shared_bytes"] <= 1024, kernel
        assert kernel["programs"] >= 16, kernel


def test_every_launch_compiles_for_hopper_and_fits_into_its_shared_memory(compile_by):
    kernels = compile_by(COMPILE_ALL.format(capability=90))
    names = [kernel["kernel"] for kernel in kernels]
    second = ["fold_second", "weigh_second", "attend", "upscale"]
    assert names[:14] == ["fold_first", "weigh_first", "attend", *second, *second, "_measure", "_edges", "_edges"]
    assert set(names[14:]) == {"add_norm", "split_heads", "merge_heads", "embed_prompts", "head_layer"}
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_MEMORY, kernel
        # The sine of large angles, of which there are none, has a table.
        assert not kernel["spilled_bytes"] or kernel["kernel"] == "embed_prompts", kernel
    by_name = {kernel["kernel"]: kernel for kernel in kernels}
    assert by_name["weigh_first"]["programs"] >= 3
    assert by_name["weigh_second"]["programs"] >= 2
    assert by_name["upscale"]["programs"] >= 2
    assert by_name["upscale"]["loop_instructions"] < 1700


@pytest.mark.soak
def test_every_launch_fits_into_the_shared_memory_of_smaller_gpus(compile_by):
    kernels = compile_by(COMPILE_ALL.format(capability=89))
    assert {"weigh_second", "attend", "upscale", "split_heads"} <= {kernel["kernel"] for kernel in kernels}
    for kernel in kernels:
        assert kernel["programs"] >= 1, kernel
