"""The examples of docs/report.md run as they stand, on a run of the photographs of `make demo`."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from sam_pipeline.cli.commands import main
from sam_pipeline.results.review import FORMAT, VERSION
from tests.report.picture_runs import write_picture_run

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "report.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]
(SNIPPET,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
(REVIEW,) = re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    write_picture_run(tmp_path / "demo", ["astronaut.png", "chelsea.png", "coffee.png", "rocket.png"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_runs(demo, capsys):
    for command in COMMANDS:
        words = shlex.split(command)
        assert words.pop(0) == "sam-pipeline"
        redirected = words.index(">") if ">" in words else len(words)
        with pytest.raises(SystemExit) as caught:
            main(words[:redirected])
        out, err = capsys.readouterr()
        assert (caught.value.code, err) == (0, ""), command
        assert out
        if redirected < len(words):
            Path(words[-1]).write_text(out)
    made = {"figures.json", "masks.html", "best.html", "review.html", "coffee-masks.png", "0.jpg"}
    assert set(os.listdir(demo)) == {"demo", *made}
    assert json.loads(Path("figures.json").read_text())["num_masks"] == 16
    assert "review-save" in Path("review.html").read_text()
    assert "review-save" not in Path("masks.html").read_text().split("<script>")[0]
    with Image.open("coffee-masks.png") as picture:
        assert picture.size == (120, 90)


def test_the_snippet_prints_the_figures(demo, capsys):
    exec(SNIPPET, {})
    assert capsys.readouterr().out == "16 4.0 {'ok': 4}\n"
    assert (demo / "best-masks.html").read_text().count('<figure class="card"') == 4


def test_the_review_that_is_shown_is_one():
    review = json.loads(REVIEW)
    assert (review["format"], review["version"]) == (FORMAT, VERSION)
    assert len(review["images"][0]["dropped_masks"][0]) == 16
