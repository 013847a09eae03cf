"""The commands of README.md and docs/ run as they stand, in a folder that holds the photographs of `make demo`."""

import os
import re
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from pycocotools import mask as coco_mask

from tests.end_to_end.pictures import save_photos
from tests.end_to_end.tables import read_rows
from tests.processes import SCRIPTS

pytestmark = [pytest.mark.weights, pytest.mark.s3, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TEXT = "".join(page.read_text() for page in (ROOT / "README.md", ROOT / "docs" / "inputs.md"))
EXAMPLES = dict(re.findall(r"```sh\n# (From [^\n]*)\n(.*?)```", TEXT, flags=re.DOTALL))

SMALL = {"--points-per-side": "3", "--threads": "1", "--num-cpus": "2"}
"""What makes a test of an example quick; these flags win over the example's own."""


@pytest.fixture
def run_example(start, s3, tmp_path):
    """Run an example by bash; the bucket is one of the test server's, with two photographs below its prefix."""
    images = tmp_path / "demo" / "images"
    images.mkdir(parents=True)
    Image.fromarray(skimage.data.coffee()).save(images / "coffee.png")
    bucket = s3.create_bucket()
    s3.put_folder(bucket, "photos", save_photos(tmp_path / "photos", 2))
    wrapper = tmp_path / "bin" / "sam-pipeline"
    wrapper.parent.mkdir()
    flags = " ".join(f"{name} {value}" for name, value in SMALL.items())
    wrapper.write_text(f'#!/bin/sh\nexec "{SCRIPTS / "sam-pipeline"}" "$@" {flags}\n')
    wrapper.chmod(0o755)

    def run(name):
        script = f"set -e\ncd {tmp_path}\n{EXAMPLES[name].replace('s3://bucket/', f's3://{bucket}/')}"
        env = s3.env | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
        done = start("-c", script, script="/bin/bash", env=env).wait()
        assert done.exit_code == 0, done.stderr
        return bucket

    return run


def test_there_is_an_example_of_each_kind():
    assert list(EXAMPLES) == ["From a bucket", "From a detector's COCO results", "From WebDataset"]


@pytest.mark.soak  # test_sources.py reads both in `make test`
def test_from_a_bucket(run_example, s3):
    bucket = run_example("From a bucket")
    rows = read_rows(f"s3://{bucket}/masks", s3.storage_options)
    assert [(row["uri"], row["status"]) for row in rows] == [
        (f"s3://{bucket}/photos/{index:02}.png", "ok") for index in range(2)
    ]


@pytest.mark.soak
def test_from_webdataset(run_example, tmp_path):
    run_example("From WebDataset")
    (row,) = read_rows(str(tmp_path / "demo" / "from-tar"))
    assert row["uri"].endswith("demo/shard.tar#coffee.png")
    assert (row["status"], row["height"], row["width"]) == ("ok", 400, 600)
    assert row["masks"]


@pytest.mark.soak  # the examples of EXAMPLES.md are planned in CI, and run with this by `make long`
def test_from_a_detectors_results(run_example, tmp_path):
    run_example("From a detector's COCO results")
    (row,) = read_rows(str(tmp_path / "demo" / "prompted"))
    (mask,) = row["masks"]
    assert (mask["prompt_id"], mask["category_id"], mask["score"]) == (0, 47, 0.97)
    assert mask["prompt_box"] == [150, 20, 300, 290]
    pixels = coco_mask.decode(mask["segmentation"])
    inside = pixels[20:310, 150:450].sum() / pixels.sum()
    assert inside > 0.95, "the mask is of what the box shows"
    assert pixels.sum() > 0.3 * 300 * 290
