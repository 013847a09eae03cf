import errno
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sam_pipeline.amg import reading
from sam_pipeline.amg import run as amg_run
from sam_pipeline.amg.reading import read_image
from sam_pipeline.cli.commands import main
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.storage.inputs.decoding.image_reading import TooLargeError
from tests.storage.image_files import noise, saved


@pytest.fixture
def photos(tmp_path):
    """A folder with two images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def configs(monkeypatch):
    """The settings that a generator was made with, which finds the upper half of every image."""
    made = []

    def generate(image):
        mask = np.zeros(image.shape[:2], bool)
        mask[: len(mask) // 2] = True
        record = {
            "segmentation": dict(rle.encode(Runs.of_mask(mask))),
            "area": int(mask.sum()),
            "bbox": [0, 0, image.shape[1] - 1, len(mask) // 2 - 1],
            "predicted_iou": 0.5,
            "point_coords": [[1.5, 2.5]],
            "stability_score": 0.75,
            "crop_box": [0, 0, image.shape[1], image.shape[0]],
        }
        return [record]

    monkeypatch.setattr(amg_run, "load_generator", lambda config: made.append(config) or generate)
    return made


@pytest.fixture
def amg(tmp_path, capsys, monkeypatch):
    """Run the command on a folder; returns its exit code, what it printed, and what it said on standard error."""
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "1")  # so that what the command sets is undone

    def run(folder, *flags, output="out"):
        with pytest.raises(SystemExit) as ended:
            main(["amg", "--output", str(tmp_path / output), "--input", str(folder), *map(str, flags)])
        return ended.value.code, *capsys.readouterr()

    return run


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_flag_of_the_official_script_is_taken(amg, photos, configs):
    code, _, err = amg(
        *(photos, "--model-type", "vit_b", "--checkpoint", "b.pth", "--device", "cuda:1", "--convert-to-rle"),
        *("--points-per-side", 7, "--points-per-batch", 8, "--pred-iou-thresh", 0.1, "--stability-score-thresh", 0.2),
        *("--stability-score-offset", 0.3, "--box-nms-thresh", 0.4, "--crop-n-layers", 1, "--crop-nms-thresh", 0.5),
        *("--crop-overlap-ratio", 0, "--crop-n-points-downscale-factor", 2, "--min-mask-region-area", 9),
    )
    assert (code, err) == (0, "")
    (config,) = configs
    assert (config.model.model_type, config.model.checkpoint, config.model.device) == ("vit_b", "b.pth", "cuda:1")
    assert list(config.masks.by_name().values()) == [7, 8, 0.1, 0.2, 0.3, 0.4, 1, 0.5, 0, 2, 9]
    assert config.convert_to_rle


def test_images_become_folders_and_a_summary(amg, photos, configs, tmp_path):
    code, out, err = amg(photos)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"output +\S+/out\nimages +2\nmasks +2\ntime +0:00:0\d\n", out)
    files = ["a/0.png", "a/metadata.csv", "b/0.png", "b/metadata.csv"]
    assert files_in(tmp_path / "out") == files


def test_one_image_becomes_json(amg, photos, configs, tmp_path):
    assert amg(photos / "b.png", "--convert-to-rle")[0] == 0
    assert files_in(tmp_path / "out") == ["b.json"]
    assert json.loads((tmp_path / "out" / "b.json").read_text())[0]["area"] == 24


def test_broken_images_are_a_line_each_and_the_others_go_on(amg, photos, configs, tmp_path):
    (photos / "cut.png").write_bytes(saved(noise(), "PNG")[:-30])
    (photos / "empty.jpg").touch()
    (photos / "bad\x1b[31m\n.gif").write_text("no image at all")
    (photos / "labels.txt").write_text("0 1 2 3")
    code, out, err = amg(photos)
    assert code == 0
    lines = err.splitlines()
    assert lines[0] == "left out, not images: 1 (labels.txt)"
    assert len(lines) == 4
    assert "\x1b" not in err
    assert "cut.png: cannot be decoded as PNG" in err
    assert "empty.jpg: the file is empty" in err
    assert re.search(r"images +5 \(3 failed\)\nmasks +2\n", out)
    assert files_in(tmp_path / "out") == ["a/0.png", "a/metadata.csv", "b/0.png", "b/metadata.csv"]


def test_what_opencv_alone_reads_is_a_line_too_if_it_is_broken(amg, photos, configs, tmp_path):
    for name, content in {
        "huge.ppm": b"P6 40000 40000 255\nabc",
        "cut.pgm": b"P5 30 30 255\nabc",
        "negative.ppm": b"P6 -5 5 255\nabc",
        "short.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40,
    }.items():
        (photos / name).write_bytes(content)
    code, out, err = amg(photos)
    assert code == 0
    assert "huge.ppm: too many pixels, the limit is 100000000\n" in err
    assert re.search(r"images +6 \(4 failed\)\nmasks +2\n", out)
    assert len(err.splitlines()) == 4
    assert files_in(tmp_path / "out") == ["a/0.png", "a/metadata.csv", "b/0.png", "b/metadata.csv"]


def test_an_image_for_which_memory_is_missing_is_a_line(amg, photos, configs, monkeypatch):
    def fail(image):
        if failures:
            raise failures.pop()
        return torch.empty(10**15)  # as torch says it on this machine

    failures = [cv2.error("Insufficient memory")]
    monkeypatch.setattr(amg_run, "load_generator", lambda config: fail)
    code, out, err = amg(photos)
    assert (code, out.count("(2 failed)")) == (1, 1)
    assert re.search(r"a\.png: Insufficient memory\n.*b\.png: .*can't allocate memory", err, re.DOTALL)


def test_a_gpu_that_fails_ends_the_command(amg, photos, configs, monkeypatch):
    def fail(image):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(amg_run, "load_generator", lambda config: fail)
    code, out, err = amg(photos)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"unexpected RuntimeError: CUDA error: an illegal [^\n]+\n", err)


def test_opencv_refuses_too_many_pixels_before_it_decodes_them(photos, tmp_path):
    (photos / "large.ppm").write_bytes(b"P6 12000 12000 255\nabc")
    code = f"""if True:
        from pathlib import Path
        from sam_pipeline.cli.commands import main
        try:
            main(["amg", "--input", {str(photos)!r}, "--output", {str(tmp_path / "out")!r}, "--checkpoint", "none.pth"])
        except SystemExit:
            from sam_pipeline.amg.reading import read_image
            read_image(Path({str(photos / "large.ppm")!r}))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("TooLargeError: too many pixels, the limit is 100000000\n")


def test_the_limit_of_pixels_holds_for_what_opencv_alone_reads(photos, monkeypatch):
    (photos / "bits.pbm").write_bytes(b"P4 8 8\n" + b"\xaa" * 8)
    assert read_image(photos / "bits.pbm").shape == (8, 8, 3)
    monkeypatch.setattr(reading, "MAX_PIXELS", 63)
    with pytest.raises(TooLargeError, match="8x8 pixels, the limit is 63"):
        read_image(photos / "bits.pbm")


@pytest.mark.parametrize("name", ["broken.jpg", "notes.txt"])
def test_if_nothing_succeeds_the_exit_code_is_1(amg, tmp_path, configs, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text("no image at all")
    code, _, err = amg(tmp_path / "in")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: no image ")
    assert files_in(tmp_path / "in") == [name]
    assert not list((tmp_path / "out").glob("*"))


def test_what_is_there_is_refused_before_anything_is_done(amg, photos, configs, tmp_path):
    (tmp_path / "out" / "b").mkdir(parents=True)
    assert amg(photos)[0] == 0  # an empty folder is as good as none
    for flags in ([], ["--points-per-side", 4]):
        code, out, err = amg(photos, *flags)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"error: \S+/out/a exists already: name another output; --overwrite [^\n]+\n", err)
    assert len(configs) == 1, "the networks were loaded in vain"
    assert amg(photos, "--overwrite")[0] == 0
    (tmp_path / "out" / "b" / "notes.txt").write_text("mine")
    before = (tmp_path / "out" / "a" / "0.png").stat().st_mtime_ns
    code, _, err = amg(photos, "--overwrite")
    assert code == 2
    assert "out/b holds what amg did not write" in err
    assert (tmp_path / "out" / "a" / "0.png").stat().st_mtime_ns == before


def test_two_images_of_one_name_are_told_apart(amg, photos, configs, tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(photos / "a.jpg")
    code, _, err = amg(photos, "--convert-to-rle")
    assert code == 0
    assert err.count("another image has this name without its suffix") == 2
    assert files_in(tmp_path / "out") == ["a.jpg.json", "a.png.json", "b.json"]


def test_names_that_lead_out_of_the_output_do_not(amg, photos, configs, tmp_path):
    (photos / "a.png").rename(photos / "...png")
    assert amg(photos)[0] == 0
    assert files_in(tmp_path / "out") == ["...png/0.png", "...png/metadata.csv", "b/0.png", "b/metadata.csv"]


def test_a_name_that_is_too_long_is_its_own_failure(amg, photos, configs, tmp_path):
    (photos / "a.png").rename(photos / ("a" * 251 + ".png"))
    code, _, err = amg(photos, "--convert-to-rle")
    assert code == 0
    assert "File name too long" in err
    assert files_in(tmp_path / "out") == ["b.json"]


def test_a_full_disk_ends_it_with_one_line_and_nothing_half_written(amg, photos, configs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sam_pipeline.amg.writing.metadata_csv", full)
    code, out, err = amg(photos)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: \S+/out/a cannot be written: [^\n]*No space left on device\n", err)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--points-per-side", "0"], "points_per_side must be at least 1"),
        (["--output", "s3://bucket/out"], "amg reads and writes local files"),
        (["--input", "none"], "input none cannot be listed"),
    ],
)
def test_wrong_settings_are_one_line(capsys, photos, configs, tmp_path, flags, message):
    given = {"--input": str(photos), "--output": str(tmp_path / "out")} | dict([flags])
    with pytest.raises(SystemExit) as ended:
        main(["amg", *(word for pair in given.items() for word in pair)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert re.fullmatch(rf"error: {message}[^\n]*\n", err)


def test_files_in_the_place_of_a_pattern_are_one_line(amg, photos, configs):
    code, _, err = amg(photos / "a.png", photos / "b.png")
    assert (code, err) == (2, "error: --input takes one image or folder, got 2 values; amg knows no patterns\n")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line_before_weights_are_fetched(amg, photos, device, monkeypatch):
    monkeypatch.setattr(amg_run, "resolve_checkpoint", lambda *_: pytest.fail("weights were fetched"))
    code, _, err = amg(photos, "--device", device)
    assert code == 2
    assert re.fullmatch(rf"error: device {device} cannot be used: [^\n]+\n", err)


def test_weights_that_are_not_there_are_one_line(amg, photos, tmp_path):
    code, _, err = amg(photos, "--device", "cpu", "--checkpoint", tmp_path / "none.pth")
    assert (code, err) == (2, f"error: checkpoint not found: {tmp_path}/none.pth\n")


def test_it_needs_no_ray(amg, photos, configs, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert amg(photos)[0] == 0
