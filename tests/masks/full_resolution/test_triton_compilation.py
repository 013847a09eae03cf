"""What Triton's interpreter takes, its compiler may refuse. No GPU is needed to compile for one."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

SHARED_MEMORY = 227 * 1024  # of a program on Hopper


def test_every_launch_compiles_for_hopper_and_fits_into_its_shared_memory(pytestconfig, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    program = "import json; from benchmarks.measured.compiled_kernels import compile_kernels; "
    program += "print(json.dumps([kernel._asdict() for kernel in compile_kernels()]))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(done.stdout)
    names = [kernel["kernel"] for kernel in kernels]
    assert names[:7] == ["average", "average", "rebuild", "upscale", "_measure", "_edges", "_edges"]
    assert set(names[7:]) == {"add_norm", "split_heads", "merge_heads", "embed_prompts", "head_layer"}
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_MEMORY, kernel
    # The sine of large angles, of which there are none, has a table.
    assert not any(kernel["spilled_bytes"] for kernel in kernels[2:] if kernel["kernel"] != "embed_prompts")
    (upscale,) = (kernel for kernel in kernels if kernel["kernel"] == "upscale")
    assert upscale["programs"] >= 2
    assert upscale["loop_instructions"] < 1700
