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
    decoding = ["fold_first", "weigh_first", "attend", "fold_second", "weigh_second", "attend", "upscale"]
    assert names[:10] == [*decoding, "_measure", "_edges", "_edges"]
    assert set(names[10:]) == {"add_norm", "split_heads", "merge_heads"}
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_MEMORY, kernel
        assert not kernel["spilled_bytes"], kernel
    by_name = {kernel["kernel"]: kernel for kernel in kernels}
    assert by_name["weigh_first"]["programs"] >= 3
    assert by_name["weigh_second"]["programs"] >= 2
    assert by_name["upscale"]["programs"] >= 2
    assert by_name["upscale"]["loop_instructions"] < 1700
