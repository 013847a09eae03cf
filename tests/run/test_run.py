"""A run as a collection: its rows by id, its masks as a stream, its images from wherever they are."""

import pickle

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from sam_pipeline import MaskDict, decode_mask, draw_masks, open_run
from sam_pipeline.errors import ConfigError, ImageError, MissingRowError, SamPipelineError
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.keywords import SelectionSettings
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.end_to_end.pictures import HEIGHT, WIDTH, photo
from tests.results.picture_runs import PLACES, blob, files, num_masks_of, parquet, picture_run, tar, zipped
from tests.storage.runs import FLOAT_FIELDS, failed_row, finished, plan, row, shard, take_over

ROWS = [row(0), row(1, 0), failed_row(2), row(3, 3), row(4, 1)]


@pytest.fixture
def run(tmp_path):
    finished(str(tmp_path / "run"), ROWS, num_images=7)
    return open_run(tmp_path / "run")


def as_stored(row):
    return row | {"masks": [mask | FLOAT_FIELDS for mask in row["masks"]]}


def test_length_iteration_and_ids_agree(run):
    assert len(run) == 5
    assert run.image_ids.tolist() == [0, 1, 2, 3, 4]
    assert [row["image_id"] for row in run] == run.image_ids.tolist()
    assert [run[image_id] for image_id in run.image_ids] == [as_stored(row) for row in ROWS]
    assert [image_id for image_id in range(-1, 9) if image_id in run] == [0, 1, 2, 3, 4]
    some = run.filter(include=["000[13].jpg"])
    assert (len(some), some.image_ids.tolist(), [row["image_id"] for row in some]) == (2, [1, 3], [1, 3])
    assert 0 not in some
    assert len(run.filter(min_area=1000)) == 5, "images without a mask that is wanted stay"
    with pytest.raises(ValueError, match="read-only"):
        run.image_ids[0] = 3


def test_a_dataset_of_chosen_masks_is_refused(run):
    with pytest.raises(ConfigError, match="a dataset has all masks of a run"):
        run.filter(min_area=1000).dataset()


def test_a_run_that_has_begun_is_empty(tmp_path):
    plan(str(tmp_path), 3)
    take_over(str(tmp_path))
    run = open_run(tmp_path)
    assert (len(run), list(run), run.image_ids.tolist(), list(run.masks()), 0 in run) == (0, [], [], [], False)
    with pytest.raises(MissingRowError, match=r"^image 0 is not done yet: 0 of 3 images are$"):
        run[0]


@pytest.mark.parametrize(
    ("image_id", "message"),
    [
        (5, "image 5 is not done yet: 5 of 7 images are"),
        (7, "there is no image 7: ids are 0 to 6"),
        (-1, "there is no image -1: ids are 0 to 6"),
        (10**30, f"there is no image {10**30}: ids are 0 to 6"),
    ],
)
def test_an_id_without_a_row_is_a_key_error_that_says_why(run, image_id, message):
    for look_up in (run.__getitem__, run.masks):
        with pytest.raises(KeyError) as caught:
            look_up(image_id)
        assert isinstance(caught.value, SamPipelineError)
        assert str(caught.value) == message
    with pytest.raises(MissingRowError, match="image 2 is not done yet, or is left out by include or exclude"):
        run.filter(exclude=["0002.jpg"])[2]


@pytest.mark.parametrize("image_id", ["3", None, 3.0])
def test_an_id_is_an_integer(run, image_id):
    with pytest.raises(TypeError, match="integer"):
        run[image_id]
    assert image_id not in run
    assert run[np.int32(3)]["image_id"] == 3


def test_a_row_shows_the_masks_that_are_wanted(run):
    areas = [mask["area"] for mask in run[3]["masks"]]
    wanted = run.filter(min_area=max(areas))[3]
    assert (wanted["num_masks"], [mask["area"] for mask in wanted["masks"]]) == (1, [max(areas)])


def test_one_row_is_read_of_its_row_group(tmp_path, monkeypatch):
    finished(str(tmp_path), [row(index, 4) for index in range(3000)])
    run, read = open_run(tmp_path), []
    original = Results.tables
    monkeypatch.setattr(Results, "tables", lambda *args, **options: read.append(options) or original(*args, **options))
    assert run[2500] == as_stored(row(2500, 4))
    (options,) = read
    assert (options["first_id"], options["last_id"]) == (2500, 2500)


def test_masks_are_streamed_with_their_image(run):
    found = [(mask["image_id"], mask["area"]) for mask in run.masks()]
    assert found == [(row["image_id"], mask["area"]) for row in ROWS for mask in row["masks"]]
    assert [mask["image_id"] for mask in run.masks(3)] == [3, 3, 3]
    assert list(run.masks(1)) == list(run.masks(2)) == []
    assert [mask["image_id"] for mask in run.masks(where=pc.field("num_masks") < 3)] == [0, 0, 4]
    assert list(run.masks(status="decode_error")) == []
    assert set(next(run.masks())) == {*MaskDict.__annotations__, "image_id"}
    assert len(list(run.filter(max_masks=1).masks())) == 3
    with pytest.raises(ConfigError, match="status must be one of"):
        run.masks(status="done")


def test_masks_of_an_image_take_the_ids_that_rows_take(run):
    assert run[True] == run[1]
    assert [mask["image_id"] for mask in run.masks(np.int64(3))] == [3, 3, 3]
    assert list(run.masks(True)) == []
    for image_id in ("3", 3.0):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            run.masks(image_id)
    with pytest.raises(MissingRowError, match="no image 99"):
        run.masks(99)


def test_masks_are_decoded_if_asked(run):
    for mask in run.masks(decode=True):
        assert np.array_equal(mask["pixels"], decode_mask(mask))
        assert (mask["pixels"].dtype, int(mask["pixels"].sum())) == (np.bool_, mask["area"])


def test_the_keywords_of_filter_are_the_settings_of_a_selection():
    assert list(SelectionSettings.__annotations__) == list(MaskSelection().by_name())


def test_a_run_can_be_pickled_at_its_version(tmp_path):
    table = finished(str(tmp_path), ROWS[:3], num_images=5)
    run = open_run(tmp_path).filter(max_masks=1)
    table.commit([shard(str(tmp_path), ROWS[3:])])
    again = pickle.loads(pickle.dumps(run))
    assert (again.version, len(again), again.selection) == (run.version, 3, run.selection)
    assert list(again) == list(run)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("make", PLACES)
def test_images_are_read_from_wherever_they_are_and_upright(tmp_path, make, turned):
    run = open_run(picture_run(tmp_path / "run", make(tmp_path / "in", 4, turned=turned)))
    for each in run:
        for image in (each, each["image_id"], np.int64(each["image_id"])):
            pixels = run.read_image(image)
            assert (pixels.shape, pixels.dtype) == ((each["height"], each["width"], 3), np.uint8)
            assert np.array_equal(pixels, photo(each["image_id"]))
    drawn = draw_masks(pixels, each["masks"])
    assert drawn.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.s3
@pytest.mark.parametrize("make", [files, tar, zipped, parquet])
def test_images_are_read_from_a_bucket(tmp_path, s3, monkeypatch, make):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    made = make(tmp_path / "in", 3)
    for path in made.iterdir() if made.is_dir() else [made]:
        s3.put(bucket, f"in/{path.name}", path.read_bytes())
    run = open_run(picture_run(f"s3://{bucket}/run", f"s3://{bucket}/in"))
    assert len(run) == 3
    for each in run:
        assert np.array_equal(run.read_image(each), photo(each["image_id"]))


def test_an_image_that_cannot_be_read_is_an_error_of_one_line(tmp_path):
    place = files(tmp_path / "in", 5)
    run = open_run(picture_run(tmp_path / "run", place))
    (place / "0000.png").unlink()
    (place / "0001.png").write_bytes(b"")
    Image.new("RGB", (3, 3)).save(place / "0002.png")
    (place / "0003.png").write_bytes(b"?" * (place / "0003.png").stat().st_size)
    for image_id in range(4):
        with pytest.raises(ImageError, match=rf"^cannot read image {image_id}: ") as caught:
            run.read_image(image_id)
        assert "\n" not in str(caught.value)
    assert run.read_image(4).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(MissingRowError, match="there is no image 5: ids are 0 to 4"):
        run.read_image(5)


def test_masks_of_a_picture_are_those_that_were_stored(tmp_path):
    run = open_run(picture_run(tmp_path / "run", files(tmp_path / "in", 5)))
    for image_id in range(5):
        masks = list(run.masks(image_id, decode=True))
        assert len(masks) == num_masks_of(image_id)
        for number, mask in enumerate(masks):
            assert np.array_equal(mask["pixels"], blob(10 * image_id + number)[1])
