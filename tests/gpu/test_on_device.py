import os
import subprocess
import sys

import pytest
import torch


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_checks_on_the_device_pass(pytestconfig):
    # In a process of its own: Triton must not have been imported as an interpreter, as other tests do.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.gpu"]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
