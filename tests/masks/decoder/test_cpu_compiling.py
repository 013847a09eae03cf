import shutil
import subprocess
import sys
from pathlib import Path

from sam_pipeline.masks.decoder import cpu

PRINT = "import numpy as np; from kernels.calling import twice; print(twice(np.float32(3)))"


def test_a_kernel_is_compiled_anew_when_another_file_has_changed(tmp_path):
    """numba alone looks at the kernel's own file."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    shutil.copy(Path(cpu.__file__).parent / "compiling.py", folder)
    (folder / "calling.py").write_text(
        "from kernels.compiling import kernel\nfrom kernels.called import double\n\n\n"
        "@kernel\ndef twice(x):\n    return double(x)\n"
    )

    def printed(factor):
        called = f"from kernels.compiling import kernel\n\n\n@kernel\ndef double(x):\n    return x * {factor}\n"
        (folder / "called.py").write_text(called)
        python = [sys.executable, "-c", PRINT]
        return float(subprocess.run(python, cwd=tmp_path, check=True, capture_output=True, text=True).stdout)

    assert printed(2) == 6
    assert list((folder / "__pycache__").glob("*.nbi")), "nothing was kept"
    assert printed(4) == 12
