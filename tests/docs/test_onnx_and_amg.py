"""The examples of docs/onnx.md and docs/amg.md run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.processes import SCRIPTS

pytestmark = pytest.mark.weights

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, vit_t_checkpoint: Path) -> Path:
    """A folder with two photographs and the weights."""
    (tmp_path / "mobile_sam.pt").symlink_to(vit_t_checkpoint)
    (tmp_path / "photos").mkdir()
    for path in ("photo.png", "photos/coffee.png"):
        Image.fromarray(skimage.data.coffee()).save(tmp_path / path)
    return tmp_path


def run_commands(text: str, folder: Path) -> str:
    """Run commands by bash, without those of pip; returns what they print."""
    lines = [line for line in text.splitlines() if not line.startswith("pip ")]
    env = os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/bash", "-ec", "\n".join(lines)], cwd=folder, env=env, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_decoder_is_exported_and_run(folder: Path) -> None:
    (commands,) = blocks("onnx.md", "sh")
    assert "masks as torch's" in run_commands(commands, folder)
    (snippet,) = blocks("onnx.md", "python")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in snippet


def test_amg_writes_folders_and_json(folder: Path) -> None:
    (commands,) = blocks("amg.md", "sh")
    first, second = commands.splitlines()
    printed = run_commands(f"{first} --points-per-side 3\n{second.replace(' 16', ' 3')}", folder)
    assert printed.count("images  1\n") == 2
    header = (folder / "masks" / "coffee" / "metadata.csv").read_text().splitlines()[0]
    shown = re.search(r"^    (id,.*),…$", (DOCS / "amg.md").read_text(), flags=re.MULTILINE)
    assert shown is not None
    assert header.startswith(shown[1])
    assert (folder / "masks" / "coffee" / "0.png").exists()
    assert (folder / "json" / "coffee.json").exists()
