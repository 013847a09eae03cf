import subprocess
import sys

import pytest
import torch

from tests.gpu.pack import pack


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.weights
def test_checks_and_faults_on_the_device_pass(pytestconfig, tmp_path):
    pack(tmp_path / "pack")
    command = [sys.executable, "-m", "tests.gpu", "checks", "faults", "--pack", tmp_path / "pack", "--output", tmp_path]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
