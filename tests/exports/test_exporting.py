"""Exports that begin, are cut off, go on, are replaced and are refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sam_pipeline.errors import ConfigError, InputError, OutputError
from sam_pipeline.exports import exporting, parts
from sam_pipeline.exports.exporting import export
from sam_pipeline.exports.formats import FORMATS
from sam_pipeline.exports.places.destination import OWN_FOLDER, Destination
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results.results import Results
from sam_pipeline.results.review import mask_key
from tests.exports.masks import HEIGHT, WIDTH, all_shapes, prompted, row, shapes, stored
from tests.storage.image_files import noise, saved
from tests.storage.runs import failed_row, plan, shard, take_over

EXPORTS = [
    {"format": "coco"},
    {"format": "coco", "split": 0.5},
    {"format": "coco", "shard_images": 3},
    {"format": "coco-results"},
    {"format": "sa1b"},
    {"format": "amg", "convert_to_rle": True},
    {"format": "amg"},
    {"format": "coco", "segmentation": "polygon"},
    {"format": "yolo-seg", "split": 0.5},
    {"format": "yolo-box"},
    {"format": "png"},
    {"format": "labelme"},
    {"format": "webdataset", "shard_images": 3},
    {"format": "hf", "shard_images": 3},
]


@pytest.fixture
def small_parts(monkeypatch):
    for name, form in FORMATS.items():
        monkeypatch.setitem(FORMATS, name, replace(form, part_images=4))
    monkeypatch.setattr(parts, "_BATCH_IMAGES", 3)


@pytest.fixture
def run(make_run):
    return make_run([row(number, all_shapes()[: number % 4]) for number in range(10)] + [failed_row(10)], 12)


def files_below(folder):
    """Content by name, of all but the program's own notes."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and OWN_FOLDER not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def marker(folder):
    return json.loads((Path(folder) / OWN_FOLDER / "export.json").read_text())


class Killed(BaseException):
    """As a signal: nothing but the end of the process is to be expected of it."""


@pytest.mark.parametrize("settings", EXPORTS, ids=str)
def test_an_export_that_is_cut_off_at_any_write_goes_on_to_the_same_files(
    run, tmp_path, small_parts, monkeypatch, settings
):
    results, settings = Results.open(run, {}), ExportSettings(**settings)
    export(results, str(tmp_path / "whole"), settings)
    whole = files_below(tmp_path / "whole")
    write, num_left = Destination.write, 0

    def write_or_die(self, name, fill):
        nonlocal num_left
        num_left -= 1
        if num_left == 0:
            raise Killed
        write(self, name, fill)

    monkeypatch.setattr(Destination, "write", write_or_die)
    num_kills = 0
    while True:
        num_left = 3 + num_kills  # each start dies a little later
        try:
            export(results, str(tmp_path / "cut"), settings)
            break
        except Killed:
            num_kills += 1
            assert not marker(tmp_path / "cut").get("finished")
            if settings.format.startswith("coco") and settings.shard_images is None:
                assert all(whole[name] == content for name, content in files_below(tmp_path / "cut").items())
        assert num_kills < 200
    assert num_kills
    assert files_below(tmp_path / "cut") == whole
    assert marker(tmp_path / "cut")["finished"]
    left = {path.parent.name for path in (tmp_path / "cut" / OWN_FOLDER).rglob("*") if path.is_file()}
    assert left == {OWN_FOLDER, "names", "parts"}


def test_a_batch_is_bounded_by_what_its_masks_take(make_run, tmp_path, monkeypatch):
    """What a format makes of a batch is held at once, and images may have thousands of masks."""
    batches, make_batch = [], parts.make_batch

    def make(*arguments):
        batches.append(make_batch(*arguments))
        return batches[-1]

    many = [stored(pixels) for pixels in list(shapes().values())[:1] * 50]
    run = make_run([row(number, many if number == 1 else many[:1]) for number in range(8)])
    export(Results.open(run, {}), str(tmp_path / "whole"), ExportSettings(format="coco"))
    monkeypatch.setattr(parts, "make_batch", make)
    monkeypatch.setattr(parts, "_BATCH_BYTES", 5000)
    export(Results.open(run, {}), str(tmp_path / "cut"), ExportSettings(format="coco"))
    assert [batch.num_masks for batch in batches] == [1, 50, 2, 4]
    assert files_below(tmp_path / "cut") == files_below(tmp_path / "whole")


def test_what_was_begun_goes_on_with_the_same_settings_of_the_same_run_alone(
    run, make_run, tmp_path, small_parts, monkeypatch
):
    def die(*_):
        raise Killed

    results, dest = Results.open(run, {}), str(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "finish", die)
        with pytest.raises(Killed):
            export(results, dest, ExportSettings(format="coco"))
    with pytest.raises(ConfigError, match=r"other settings \(bbox: 'mask' there, 'prompt' now\)"):
        export(results, dest, ExportSettings(format="coco", bbox="prompt"))
    with pytest.raises(ConfigError, match="unfinished export of another run"):
        export(Results.open(make_run([row(0, []), row(1, [])]), {}), dest, ExportSettings(format="coco"))
    export(results, dest, ExportSettings(format="coco"))
    with pytest.raises(OutputError, match="holds a finished export; --overwrite replaces it"):
        export(results, dest, ExportSettings(format="coco"))


def test_an_export_goes_on_at_the_version_that_it_began_with(tmp_path, small_parts, monkeypatch):
    output, dest = str(tmp_path / "run"), str(tmp_path / "cut")
    plan(output, 8)
    table = take_over(output)
    table.commit([shard(output, [row(number, all_shapes()[:2]) for number in range(6)])])
    export(Results.open(output, {}), str(tmp_path / "whole"), ExportSettings(format="coco"))
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "finish", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            export(Results.open(output, {}), dest, ExportSettings(format="coco"))
    (tmp_path / "cut" / OWN_FOLDER / "parts" / "0000001.json").unlink()
    table.commit([shard(output, [row(number, all_shapes()[:2]) for number in (6, 7)])])
    summary = export(Results.open(output, {}), dest, ExportSettings(format="coco"))
    assert files_below(dest) == files_below(tmp_path / "whole")
    assert (summary.num_images, summary.num_missing) == (6, 2)


def test_a_destination_that_is_not_empty_is_refused(run, tmp_path):
    results, dest = Results.open(run, {}), tmp_path / "mine"
    dest.mkdir()
    (dest / ".DS_Store").write_text("the desktop's")
    (dest / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"is not empty: it holds 'notes\.txt', which no export wrote"):
            export(results, str(dest), ExportSettings(format="coco", overwrite=overwrite))
    assert {path.name for path in dest.iterdir()} == {".DS_Store", "notes.txt"}
    (dest / "notes.txt").unlink()
    export(results, str(dest), ExportSettings(format="coco"))
    assert (dest / ".DS_Store").read_text() == "the desktop's"
    with pytest.raises(OutputError, match="is not empty"):
        export(results, run, ExportSettings(format="coco"))


@pytest.mark.parametrize("settings", EXPORTS, ids=str)
def test_overwrite_deletes_what_an_export_wrote_and_nothing_else(run, tmp_path, settings):
    results, dest = Results.open(run, {}), tmp_path / "export"
    export(results, str(dest), ExportSettings(**settings))
    (dest / "0001").mkdir(exist_ok=True)
    (dest / "0001" / "notes.txt").write_text("mine")
    export(results, str(dest), ExportSettings(format="coco-results", overwrite=True))
    assert set(files_below(dest)) == {"0001/notes.txt", "results.json"}
    assert [path.name for path in dest.iterdir() if path.is_dir()] in (["0001", OWN_FOLDER], [OWN_FOLDER, "0001"])


def test_a_file_of_others_is_never_replaced(run, tmp_path):
    results, dest = Results.open(run, {}), tmp_path / "export"
    export(results, str(dest), ExportSettings(format="coco-results"))
    (dest / "annotations.json").write_text("mine")
    with pytest.raises(OutputError, match=r"annotations\.json is no file of an export"):
        export(results, str(dest), ExportSettings(format="coco", overwrite=True))
    assert (dest / "annotations.json").read_text() == "mine"


def test_a_hidden_file_of_others_is_never_replaced_either(make_run, tmp_path):
    run = make_run([row(0, all_shapes()[:1], uri="file:///in/.hidden.jpg")], 1)
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / ".hidden.json").write_text("somebody's")
    with pytest.raises(OutputError, match="no file of an export"):
        export(Results.open(run, {}), str(tmp_path / "dest"), ExportSettings(format="sa1b"))
    assert (tmp_path / "dest" / ".hidden.json").read_text() == "somebody's"


def test_an_export_that_was_cut_off_can_be_replaced_whole(run, tmp_path, small_parts, monkeypatch):
    results, dest = Results.open(run, {}), tmp_path / "export"
    put, num_puts = Destination.put, 0

    def put_or_die(self, name, content):
        nonlocal num_puts
        num_puts += 1
        if num_puts == 6:
            raise Killed
        put(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "put", put_or_die)
        with pytest.raises(Killed):
            export(results, str(dest), ExportSettings(format="sa1b"))
    assert files_below(dest)
    export(results, str(dest), ExportSettings(format="coco-results", overwrite=True))
    assert set(files_below(dest)) == {"results.json"}


def test_an_export_to_s3_is_the_same_and_can_be_replaced(run, tmp_path, s3, monkeypatch, small_parts):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    results = Results.open(run, {})
    for settings in EXPORTS[1:5:3]:
        export(results, str(tmp_path / str(settings)), ExportSettings(**settings))
        export(results, f"s3://{bucket}/export", ExportSettings(**settings, overwrite=True))
        keys = [key for key in s3.list_keys(bucket, "export/") if OWN_FOLDER not in key]
        stored_files = {key.removeprefix("export/"): s3.get(bucket, key) for key in keys}
        assert stored_files == files_below(tmp_path / str(settings))
    with pytest.raises(OutputError, match="holds a finished export"):
        export(results, f"s3://{bucket}/export", ExportSettings(format="coco"))
    s3.put(bucket, "other/notes.txt", b"mine")
    with pytest.raises(OutputError, match=r"holds 'notes\.txt'"):
        export(results, f"s3://{bucket}/other", ExportSettings(format="coco"))
    with pytest.raises(ConfigError, match="--images copy"):
        export(results, f"s3://{bucket}/third", ExportSettings(format="coco", images="symlink"))


def test_an_upload_that_fails_leaves_no_object(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()

    def fill(file):
        file.write(bytes(40 << 20))  # more than a part, so that the upload has begun
        raise Killed

    with pytest.raises(Killed):
        Destination(f"s3://{bucket}/export", {}).write("half.json", fill)
    assert s3.list_keys(bucket) == []


@pytest.fixture
def run_with_images(tmp_path, make_run):
    """Two images on this disk, one of which is gone since."""
    names = ["a/first.png", "b/second.png", "b/gone.png"]
    for name in names[:2]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(saved(noise(HEIGHT, WIDTH), "PNG"))
    from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
    from sam_pipeline.storage.tables.plan import write_plan

    uris = [f"file://{tmp_path}/in/{name}" for name in names]
    sizes = [os.path.getsize(tmp_path / "in" / name) for name in names[:2]] + [9]
    images = [SourceObject(uri, size, None) for uri, size in zip(uris, sizes, strict=True)]
    output = str(tmp_path / "run-of-images")
    write_plan(output, str(tmp_path / "in"), source_table(images), {})
    rows = [row(number, all_shapes()[:1], uri=uri) for number, uri in enumerate(uris)]
    take_over(output).commit([shard(output, rows)])
    return output


@pytest.mark.parametrize(("format", "folder"), [("coco", "images/"), ("sa1b", "")])
def test_images_are_copied_or_linked_beside_their_annotations(run_with_images, exported, tmp_path, format, folder):
    for how in ("copy", "symlink"):
        export_folder, summary = exported(run_with_images, format, f"{format}-{how}", images=how)
        for name in ("a/first.png", "b/second.png"):
            path = export_folder / f"{folder}{name}"
            assert path.read_bytes() == (tmp_path / "in" / name).read_bytes()
            assert path.is_symlink() == (how == "symlink")
        assert not (export_folder / f"{folder}b/gone.png").exists()
        assert summary.warnings.total() == 1
        assert summary.root == f"file://{tmp_path}/in/"
    # Links are replaced by --overwrite, not what they lead to.
    exported(run_with_images, "coco-results", f"{format}-symlink", overwrite=True)
    assert set(files_below(tmp_path / f"{format}-symlink")) == {"results.json"}
    assert (tmp_path / "in" / "a" / "first.png").exists()


def test_members_of_archives_cannot_be_linked(exported, tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"an archive")
    rows = [row(0, [], uri=f"file://{archive}#b.jpg"), row(1, [], uri=f"file://{archive}#c.jpg")]
    with pytest.raises(ConfigError, match="use --images copy"):
        exported(rows, "coco", images="symlink")


def test_categories_without_a_name_are_refused_before_anything_is_written(exported, tmp_path):
    rows = [row(0, [prompted(shapes()["disc"], 3)]), row(1, [stored(shapes()["disc"])])]
    with pytest.raises(ConfigError, match="category 3 has no name"):
        exported(rows, "coco")
    with pytest.raises(InputError):
        exported(rows, "coco", categories=str(tmp_path / "missing.txt"))
    assert not (tmp_path / "export").exists()


def test_settings_of_other_formats_are_refused(exported, every_shape):
    with pytest.raises(ConfigError, match="sa1b takes no segmentation, got 'polygon'"):
        exported(every_shape, "sa1b", segmentation="polygon")
    with pytest.raises(ConfigError, match="format must be one of coco, coco-results,"):
        ExportSettings(format="voc")
    with pytest.raises(ConfigError, match="give a folder, in which coco writes its files"):
        exported(every_shape, "coco", "annotations.json")
    with pytest.raises(ConfigError, match="split must be between 0 and 1, got 1"):
        ExportSettings(format="coco", split=1)


def test_a_destination_that_cannot_be_written_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="cannot use output") as caught:
        export(Results.open(run, {}), str(tmp_path / "file" / "export"), ExportSettings(format="coco"))
    assert "\n" not in str(caught.value)


def test_progress_tells_of_every_image_that_has_a_row(run, tmp_path, small_parts):
    for form in ("coco", "amg"):
        told = []
        export(Results.open(run, {}), str(tmp_path / form), ExportSettings(format=form, split=0.5), told.append)
        assert sum(told) == 11
        assert len([count for count in told if count]) > 3


def test_what_a_review_drops_is_left_out(run, tmp_path, small_parts):
    rows = {
        row["image_id"]: row
        for row in Results.open(run, {}).tables(["image_id", "uri", "masks"]).__next__().to_pylist()
    }
    dropped = mask_key(rows[3]["masks"][1])
    images = [
        {"image_id": 2, "uri": rows[2]["uri"], "keep": False, "dropped_masks": []},
        {"image_id": 3, "uri": rows[3]["uri"], "keep": True, "dropped_masks": [dropped]},
    ]
    images += [
        {"image_id": 4, "uri": "file:///other/4.jpg", "keep": True, "dropped_masks": ["0" * 16, "1" * 16]},
        {"image_id": 5, "uri": "file:///other/5.jpg", "keep": False, "dropped_masks": []},
    ]
    ticks = {"format": "sam-pipeline review", "version": 1, "output": run, "images": images}
    (tmp_path / "review.json").write_text(json.dumps(ticks))
    settings = ExportSettings(format="coco", reviewed=str(tmp_path / "review.json"))
    summary = export(Results.open(run, {}), str(tmp_path / "export"), settings)
    content = json.loads((tmp_path / "export" / "annotations.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    kept = [each["segmentation"]["counts"] for each in content["annotations"] if each["image_id"] == 4]
    assert kept == [rows[3]["masks"][number]["segmentation"]["counts"] for number in (0, 2)]
    assert [each["id"] for each in content["annotations"]] == list(range(1, summary.num_masks + 1))
    assert summary.images_left_out == {"decode_error": 1, "dropped in the review": 1}
    assert summary.masks_left_out == {"dropped in the review": 3}
    not_found = "that the review drops were not found: the run does not have them, or the selection leaves them out"
    assert summary.warnings == {f"images {not_found}": 1, f"masks {not_found}": 2}
