"""The page of a run of each kind: what it says, how large it is, what it asks of its originals."""

import re
import shlex
import shutil
import tarfile
from html import unescape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sam_pipeline.config import InputConfig, PlanConfig
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.report.report import make_report
from sam_pipeline.report.settings import NUM_PICTURES
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.tables.plan import read_planned
from tests.report.picture_runs import HEIGHT, WIDTH, ellipse, save_images, write_picture_run
from tests.report.runs import GRID, grid_rows, write_run
from tests.storage.runs import failed_row, plan, row, shard, take_over

NAMES = [f"{number}.png" for number in range(4)]


def page(output, selection=None, **options):
    return make_report(Results.open(output, {}, selection), **options)


def notices(html):
    return re.findall(r'<p class="notice">(.*?)</p>', html)


def sections(html):
    return re.findall(r'<h2 id="(\w+)"', html)


def test_a_whole_run_has_every_section(tmp_path):
    html = page(write_picture_run(tmp_path, NAMES, with_prompts=True, num_failed=1))
    assert notices(html) == []
    assert sections(html) == [
        "overview", "failures", "distributions", "thresholds", "categories", "gallery", "settings",
    ]  # fmt: skip
    assert html.count('<figure class="card"') == html.count("data:image/webp;base64,") == 3
    assert "ab" * 32 in html  # the weights
    assert "max_pixels" in html
    assert ">pred_iou_thresh<" not in html  # it decides nothing in a run of prompts alone


def test_commands_choose_the_masks_of_the_page(tmp_path):
    output = write_run(str(tmp_path), grid_rows())
    selection = MaskSelection(pred_iou_thresh=0.4, min_area=1, include=("0*.jpg", "it's.jpg"), drop_border=True)
    commands = re.findall(r"<code>(sam-pipeline .*?)</code>", page(output, selection, is_review=True))
    words = [shlex.split(unescape(re.sub("<.*?>", "", command))) for command in commands]
    others = ["--min-area", "1", "--drop-border", "--include", "0*.jpg", "it's.jpg"]
    of_iou, of_stability, of_review = words
    assert of_iou == ["sam-pipeline", "filter", output, "--into", "NEW", *others, "--pred-iou-thresh", "0.45"]
    assert of_stability[5:7] == ["--pred-iou-thresh", "0.4"]
    assert of_stability[7:-2] == others
    assert of_review == [
        "sam-pipeline", "export", output, "DEST", "--format", "coco", "--pred-iou-thresh", "0.4", *others,
        "--reviewed", "review.json",
    ]  # fmt: skip


def test_an_unfinished_run_says_so(tmp_path):
    html = page(write_picture_run(tmp_path, NAMES, num_left=3))
    assert notices(html) == ["This run is not finished: 3 of 4 images are left. The page shows what is committed."]
    assert html.count('<figure class="card"') == 1


def test_a_run_that_has_only_begun(tmp_path):
    plan(str(tmp_path), 3)
    take_over(str(tmp_path), GRID)
    html = page(str(tmp_path))
    assert notices(html)[1:] == ["There is no image to show."]
    assert sections(html) == ["overview", "settings"]


def test_only_failures(tmp_path):
    rows = [failed_row(0), failed_row(1), failed_row(2, "fetch_error")]
    html = page(write_run(str(tmp_path), rows))
    assert notices(html) == ["No image could be annotated; the errors are below."]
    assert sections(html) == ["overview", "failures", "settings"]


def test_no_masks(tmp_path):
    html = page(write_picture_run(tmp_path, NAMES, masks_per_image=0))
    assert notices(html) == ["There is no mask."]
    assert sections(html) == ["overview", "gallery", "settings"]
    assert "0 masks" in html


def test_a_selection_is_told_and_obeyed(tmp_path):
    output = write_picture_run(tmp_path, NAMES)
    html = page(output, MaskSelection(max_masks=1, include=["[01].png"]))
    assert notices(html) == ["Not all masks of the run: chosen by max_masks = 1, include = [01].png."]
    assert html.count('<figure class="card"') == html.count("data-number=") == 2


def test_a_filtered_run_says_what_it_was_made_from(tmp_path):
    filtered = GRID | {"filters": [{"source": "s3://b/run", "version": 3, "selection": {"min_area": 9}}]}
    html = page(write_run(str(tmp_path), grid_rows(), fingerprint=filtered))
    assert notices(html) == ["Filtered from s3://b/run by min_area = 9."]


def test_missing_originals_are_grey_and_marked(tmp_path):
    output = write_picture_run(tmp_path, NAMES)
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "2.png").write_bytes(b"another file")
    html = page(output)
    assert html.count("data:image/webp;base64,") == 2
    assert html.count('<rect class="missing" width="640" height="480"/>') == 2
    marks = re.findall(r'<p class="gone"><bdi>(.*?)</bdi></p>', html)
    assert marks[0] == "the original is gone"
    assert marks[1].startswith("the original cannot be read: ")
    assert html.count("data-number=") == 16


def test_an_image_of_another_size_than_its_masks_is_not_drawn_below_them(tmp_path):
    output = str(tmp_path / "run")
    ensure_plan(PlanConfig(images=InputConfig(input=str(save_images(tmp_path / "images", NAMES[:1]))), output=output))
    table = take_over(output, GRID)
    (planned,) = read_planned(output, [0], {}).to_pylist()
    table.commit([shard(output, [row(0, 2, uri=planned["uri"])])])
    assert f"the original has {WIDTH} x {HEIGHT} pixels now" in page(output)


def tar(place):
    with tarfile.open(path := place.with_suffix(".tar"), "w") as archive:
        for name in NAMES:
            archive.add(place / name, name)
    return path


def zipped(place):
    return shutil.make_archive(str(place), "zip", place)


def parquet(place):
    table = pa.table({"image": [(place / name).read_bytes() for name in NAMES]})
    pq.write_table(table, path := place.with_suffix(".parquet"))
    return path


@pytest.mark.parametrize("pack", [tar, zipped, parquet])
def test_pictures_are_read_from_archives(tmp_path, pack):
    packed = pack(save_images(tmp_path / "images", NAMES))
    html = page(annotated(packed, str(tmp_path / "run")))
    assert html.count("data:image/webp;base64,") == 4
    assert re.search(r"images\.(tar|zip|parquet)#0", html)


@pytest.mark.s3
def test_pictures_are_read_from_a_bucket(tmp_path, s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    s3.put_folder(bucket, "photos", save_images(tmp_path / "images", NAMES))
    html = page(annotated(f"s3://{bucket}/photos/", f"s3://{bucket}/run"))
    assert html.count("data:image/webp;base64,") == 4
    assert f"s3://{bucket}/photos/3.png" in html


def annotated(source, output):
    """A run over images from anywhere; returns its output."""
    ensure_plan(PlanConfig(images=InputConfig(input=str(source)), output=output))
    table = take_over(output, GRID)
    random = np.random.default_rng(0)
    rows = [
        row(each["image_id"], 1, uri=each["uri"], height=HEIGHT, width=WIDTH, masks=[ellipse(random)])
        for each in read_planned(output, range(4), {}).to_pylist()
    ]
    table.commit([shard(output, rows)])
    return output


@pytest.mark.parametrize("num_images", [2, pytest.param(24, marks=pytest.mark.soak)])
def test_by_default_a_page_is_smaller_than_5_mb(tmp_path, num_images):
    """With pictures that no format can compress, and more masks than can be drawn."""
    names = [f"{number:02}.png" for number in range(num_images)]
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in names:
        Image.fromarray(random.integers(0, 256, (900, 1200, 3), dtype=np.uint8)).save(folder / name)
    output = str(tmp_path / "run")
    ensure_plan(PlanConfig(images=InputConfig(input=str(folder)), output=output))
    table = take_over(output, GRID | {"max_pixels": 1 << 21})
    rough = [rough_mask(random) for _ in range(30)]
    rows = [
        row(each["image_id"], 30, uri=each["uri"], height=900, width=1200, masks=rough)
        for each in read_planned(output, range(num_images), {}).to_pylist()
    ]
    table.commit([shard(output, rows)])
    html = page(output, is_review=True)
    assert html.count("data:image/webp;base64,") == num_images
    assert "largest drawn" in html
    assert num_images * 100_000 < len(html.encode()) < 5_000_000 * num_images / NUM_PICTURES


def rough_mask(random):
    """Half of the pixels of a grid of squares: nothing is longer to outline."""
    from sam_pipeline.masks.runs import rle
    from sam_pipeline.masks.runs.runs import Runs

    squares = random.random((90, 120)) < 0.3
    pixels = squares.repeat(10, axis=0).repeat(10, axis=1)
    box = {"bbox": [0, 0, 1199, 899], "area": int(pixels.sum())}
    return ellipse(random) | {"segmentation": rle.encode(Runs.of_mask(pixels))} | box


def test_pictures_are_as_many_and_as_large_as_asked_for(tmp_path):
    output = write_picture_run(tmp_path, NAMES)
    html = page(output, num_pictures=2, picture_size=64)
    assert html.count('<figure class="card"') == 2
    assert 'viewBox="0 0 64 48"' in html
    assert '<figure class="card"' not in page(output, num_pictures=0)


def test_the_progress_counts_every_image(tmp_path):
    done = []
    page(write_picture_run(tmp_path, NAMES, num_failed=1), advance=done.append)
    assert sum(done) == 4


def test_nothing_refers_to_a_place_outside(tmp_path):
    html = page(write_picture_run(tmp_path, NAMES), is_review=True)
    assert re.findall(r'(?:src|href|action)="(?!#|data:image/webp)[^"]*"', html) == []
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
