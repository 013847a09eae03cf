"""The example of docs/porting.md runs as it stands, and its imports are what the page says they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

PAGE = (Path(__file__).parent.parent / "docs" / "porting.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.weights
def test_the_example_runs_and_prints_what_it_says(tmp_path: Path, vit_t_checkpoint: Path) -> None:
    (tmp_path / "mobile_sam.pt").symlink_to(vit_t_checkpoint)
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "photo.png")
    done = subprocess.run([sys.executable, "-c", EXAMPLE], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    shapes, fields = done.stdout.splitlines()
    assert f"# {shapes}\n" in EXAMPLE
    assert fields.startswith("['segmentation', 'area', 'bbox', 'predicted_iou', 'point_coords', 'stability_score'")


def test_the_imports_of_the_page_work_and_need_neither_ray_nor_the_official_package() -> None:
    lines = re.findall(r"^\+(from .*)$", PAGE, flags=re.MULTILINE)
    assert len(lines) == 3
    blocked = "import sys\nfor name in ('ray', 'torchvision', 'segment_anything'): sys.modules[name] = None\n"
    subprocess.run([sys.executable, "-c", blocked + "\n".join(lines)], check=True)


def test_the_command_of_the_page_changes_what_the_page_says() -> None:
    old, new = (re.findall(rf"^{sign}(from .*)$", PAGE, flags=re.MULTILINE) for sign in ("-", r"\+"))
    command = re.search(r"`(sed -i '.*?') \*\.py`", PAGE).group(1).replace(" -i", "")
    changed = subprocess.run(command, shell=True, input="\n".join(old), capture_output=True, text=True, check=True)
    assert changed.stdout.splitlines() == new
