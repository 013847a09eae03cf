"""What an actor launches at its start on a GPU, looked at on a CPU with recorders in the place of kernels."""

import importlib.util
import os
import subprocess
import sys

import pytest

from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.workers.warming import _compiler_errors

# Not importorskip: who imports Triton first decides whether it is an interpreter.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux on x86-64")


# Points embedded, norms of three kinds, heads of two; two layers folded, weighed, attended to; masks upscaled and
# measured, edges counted and written; of 7 tokens a prompt and of 8; three masks a prompt and one; points alone, boxes
# alone, and both.
@pytest.mark.parametrize(
    ("mode", "multimask_output", "num_forms"),
    [("grid", False, 16), ("prompted", True, 23), ("both", False, 27)],
)
def test_every_form_of_a_kernel_that_images_need_is_launched_at_the_start(
    mode, multimask_output, num_forms, pytestconfig
):
    # In a process of its own: Triton is an interpreter, as other tests want it, or is not.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.pipeline.launched_forms", mode, str(multimask_output)]
    done = subprocess.run(
        command, env=environment, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{num_forms} forms at the start, {num_forms} for images, not at the start: []"


def test_a_missing_compiler_is_one_line_that_says_what_to_do(tmp_path):
    """As Triton itself says it, so that a newer one that says it otherwise is noticed."""
    build = "from triton.runtime.build import _build; _build('launcher', 'launcher.c', '.', [], [], [], [])"
    environment = {name: value for name, value in os.environ.items() if name != "CC"} | {"PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", build], env=environment, capture_output=True, text=True, check=False)
    name, _, message = done.stderr.splitlines()[-1].partition(": ")
    assert name == "RuntimeError"
    with pytest.raises(ClusterError, match=r"cannot compile .*; install gcc"), _compiler_errors():
        raise RuntimeError(message)


def test_a_compiler_that_fails_is_named():
    said = r"'gcc'.* non-zero exit status 1.*headers of C and of Python"
    with pytest.raises(ClusterError, match=said), _compiler_errors():
        raise subprocess.CalledProcessError(1, ["gcc", "main.c"])


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^CUDA error"), _compiler_errors():
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
