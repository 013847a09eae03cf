"""The examples of docs/python.md run as they stand, one after another, in a folder that holds a run of photographs."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.results.picture_runs import files, picture_run

TEXT = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_examples_run_one_after_another(tmp_path):
    (tmp_path / "demo").mkdir()
    picture_run(tmp_path / "demo" / "run", files(tmp_path / "demo" / "images", 5))
    (tmp_path / "examples.py").write_text("\n".join(EXAMPLES))
    done = subprocess.run(
        [sys.executable, "examples.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "5 of 5 images are done: {'ok': 5}" in done.stdout
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (128, 96)
    assert (tmp_path / "coco").is_dir()
    assert (tmp_path / "report.html").stat().st_size > 10_000
