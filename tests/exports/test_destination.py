"""Places that exports write to: files of others in them, and disks that are full."""

import tempfile

import fsspec
import pytest

from sam_pipeline.errors import OutputError
from sam_pipeline.exports.exporting import export
from sam_pipeline.exports.places import destination as destination_module
from sam_pipeline.exports.places.destination import OWN_FOLDER, Destination
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results.results import Results
from tests.exports.masks import all_shapes, row
from tests.exports.pictures import picture, run_of, turned


@pytest.fixture
def memory():
    """The store memory://, empty again after the test."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.fixture
def run_with_magic_names(make_run):
    names = ["photo [1].jpg", "b?.jpg", "c*.jpg"]
    return make_run([row(number, all_shapes()[:1], uri=f"file:///in/{name}") for number, name in enumerate(names)])


def test_nothing_is_written_through_a_link_to_the_folder_of_others(exported, tmp_path):
    run = run_of(tmp_path, {"a.jpg": turned(1), "b.jpg": picture(2)})
    before = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    folder, _ = exported(run, "yolo-seg")
    (folder / "images").symlink_to(tmp_path / "in")
    with pytest.raises(OutputError, match=r"images is no file of an export; move it"):
        exported(run, "yolo-seg", images="copy", overwrite=True)
    # A link that came later is no file that was there before.
    (folder / "images").unlink()
    (folder / "labels").symlink_to(tmp_path / "in")
    place = Destination(str(folder), {})
    for write in (lambda: place.put("labels/a.jpg", b"ours"), lambda: place.link("labels/a.jpg", "/somewhere")):
        with pytest.raises(OutputError, match=r"labels is a link, and no folder of an export"):
            write()
    with pytest.raises(OutputError, match=r"labels is a link"):
        place.remove(["labels/a.jpg"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before


def test_nothing_is_deleted_where_a_link_stands_for_the_notes(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    (tmp_path / "export" / OWN_FOLDER).mkdir(parents=True)
    (tmp_path / "export" / OWN_FOLDER / "unfinished").symlink_to(tmp_path / "photos")
    with pytest.raises(OutputError, match="unfinished is a link"):
        Destination(str(tmp_path / "export"), {}).remove_unfinished()
    assert (tmp_path / "photos" / "a.jpg").read_text() == "mine"


@pytest.mark.parametrize("dest", ["memory://x/export", "memory://x/export [1]"])
def test_remote_names_are_deleted_as_they_are_written_and_no_others(run_with_magic_names, memory, dest):
    results = Results.open(run_with_magic_names, {})
    export(results, dest, ExportSettings(format="sa1b"))
    mine = ("photo 1.json", "bZ.json", "cc.json")
    for name in mine:
        memory.pipe_file(f"{dest.removeprefix('memory:/')}/{name}", b"mine")
    summary = export(results, dest, ExportSettings(format="coco-results", overwrite=True))
    assert summary.num_masks == 3
    place = Destination(dest, {})
    assert {name for name in place.names() if OWN_FOLDER not in name} == {*mine, "results.json"}
    assert place.read("results.json").count(b"image_id") == 3


def test_notes_that_cannot_be_deleted_are_not_taken_for_those_of_the_new_export(
    run_with_magic_names, memory, monkeypatch
):
    results, dest = Results.open(run_with_magic_names, {}), "memory://x/export"
    export(results, dest, ExportSettings(format="sa1b"))
    monkeypatch.setattr(Destination, "remove", lambda self, names: None)
    with pytest.raises(OutputError, match=r"\.sam-pipeline-export/\S+ could not be deleted"):
        export(results, dest, ExportSettings(format="coco-results", overwrite=True))


def test_hidden_files_beside_the_notes_are_no_notes_and_stay(exported, make_run):
    run = make_run([row(0, all_shapes()[:1])])
    folder, _ = exported(run, "coco")
    for name in ("parts", "names"):
        (folder / OWN_FOLDER / name / ".DS_Store").write_bytes(b"\0\0")
        (folder / OWN_FOLDER / name / "notes.txt~").write_bytes(b"\0\0")
    _, summary = exported(run, "coco", overwrite=True)
    assert summary.num_masks == 1
    assert (folder / OWN_FOLDER / "parts" / ".DS_Store").exists()
    Destination(str(folder), {}).put(f"{OWN_FOLDER}/parts/0000000.json", b"{")
    marker = folder / OWN_FOLDER / "export.json"
    marker.write_text(marker.read_text().replace('"finished": true', '"finished": false'))
    with pytest.raises(OutputError, match=r"0000000\.json is no note of an export"):
        exported(run, "coco")


class FullDisk:
    def __init__(self, *_, **options):
        self.folder = options.get("dir")

    def __enter__(self):
        raise OSError(28, "No space left on device")

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(("format", "settings"), [("webdataset", {}), ("hf", {}), ("coco", {"shard_images": 2})])
def test_a_full_disk_is_one_line_that_names_what_is_full(tmp_path, memory, monkeypatch, format, settings):
    run = run_of(tmp_path, {"a.jpg": picture(1)})
    folders = []

    def full(*_, dir=None):
        folders.append(dir)
        return FullDisk()

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    settings = ExportSettings(format=format, **settings)
    with pytest.raises(OutputError, match=r"cannot use output .*export: .*No space left on device"):
        export(Results.open(run, {}), str(tmp_path / "export"), settings)
    with pytest.raises(OutputError, match=rf"cannot write to {tempfile.gettempdir()}, .*TMPDIR names another"):
        export(Results.open(run, {}), "memory://y/export", settings)
    assert folders == [str(tmp_path / "export" / OWN_FOLDER / "unfinished"), None]


def test_a_file_that_cannot_be_opened_says_why(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(destination_module, "open", fail, raising=False)
    with pytest.raises(OutputError, match="Too many open files"):
        Destination(str(tmp_path), {}).put("a", b"")
