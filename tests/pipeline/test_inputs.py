"""Every kind of input gives the pixels that the same images give as plain files."""

import gzip
import io
import json
import logging
import os
import tarfile
import zipfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.workers.columns import crops_by_image
from sam_pipeline.storage.tables.plan import read_planned
from tests.configs import plan_config
from tests.pipeline.jobs import job_of
from tests.pipeline.reading import read_tables
from tests.storage.image_files import noise, saved
from tests.storage.runs import row, shard, take_over

IMAGES = {f"{index:04}.png": saved(noise(20 + index, 30), "PNG") for index in range(12)}


def files(folder):
    (folder / "in").mkdir()
    for name, data in IMAGES.items():
        (folder / "in" / name).write_bytes(data)
    return folder / "in"


def manifest(folder):
    files(folder)
    (folder / "in" / "list.csv").write_text("uri\n" + "\n".join(IMAGES) + "\n")
    return folder / "in" / "list.csv"


def coco(folder):
    files(folder)
    entries = [{"id": 7 + index, "file_name": name} for index, name in enumerate(IMAGES)]
    (folder / "in" / "instances.json").write_text(json.dumps({"images": entries}))
    return folder / "in" / "instances.json"


def tar(folder, mode="w", name="0.tar"):
    with tarfile.open(folder / name, mode) as archive:
        for member, data in reversed(IMAGES.items()):  # not in the order of names
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / name


def compressed_tar(folder):
    return tar(folder, "w:gz", "0.tar.gz")


def archive(folder):
    with zipfile.ZipFile(folder / "0.zip", "w") as archive:
        for index, (name, data) in enumerate(IMAGES.items()):
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if index % 2 else zipfile.ZIP_STORED)
    return folder / "0.zip"


def huggingface(folder):
    rows = [{"image": {"bytes": data, "path": name}} for name, data in IMAGES.items()]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "0.parquet", row_group_size=5)
    return folder / "0.parquet"


KINDS = (files, manifest, coco, tar, compressed_tar, archive, huggingface)


def read(output):
    job = job_of(AnnotateConfig(output=output))
    return read_tables(range(len(IMAGES)), job, 5)


def pixels(tables):
    """The bytes of the crops, in the order of the images' heights, which differ."""
    assert [table["status"][0].as_py() for table in tables] == ["ok"] * len(IMAGES)
    rows = [(table["height"][0].as_py(), crops_by_image(table)[0][0].tobytes()) for table in tables]
    return sorted(rows)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_kind_gives_the_pixels_of_plain_files(tmp_path, make):
    output = str(tmp_path / "run")
    assert ensure_plan(plan_config(output=output, input=str(make(tmp_path)))).num_images == len(IMAGES)
    (tmp_path / "plain").mkdir()
    plain = files(tmp_path / "plain")
    ensure_plan(plan_config(output=str(tmp_path / "plain-run"), input=str(plain)))
    assert pixels(read(output)) == pixels(read(str(tmp_path / "plain-run")))


@pytest.mark.parametrize("make", [tar, compressed_tar, archive, huggingface], ids=lambda make: make.__name__)
def test_a_container_that_is_another_one_now_gives_rows_that_say_so(tmp_path, make):
    output = str(tmp_path / "run")
    container = make(tmp_path)
    ensure_plan(plan_config(output=output, input=str(container)))
    container.write_bytes(container.read_bytes() + b"more")
    assert {table["status"][0].as_py() for table in read(output)} == {"changed"}
    container.unlink()
    assert {table["status"][0].as_py() for table in read(output)} == {"fetch_error"}


@pytest.mark.parametrize("make", [tar, archive, huggingface], ids=lambda make: make.__name__)
def test_a_folder_of_containers_of_the_time_0_is_read(tmp_path, make):
    (tmp_path / "in").mkdir()
    os.utime(make(tmp_path / "in"), (0, 0))
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=str(tmp_path / "in")))
    assert {table["status"][0].as_py() for table in read(output)} == {"ok"}


def test_what_is_kept_comes_with_each_image(tmp_path):
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=str(coco(tmp_path))))
    extras = [json.loads(table["extra"][0].as_py()) for table in read(output)]
    assert extras == [{"coco_image_id": 7 + index} for index in range(len(IMAGES))]


def test_an_image_that_planning_refused_is_a_row_with_its_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGES["0000.png"])
    (tmp_path / "list.csv").write_text("uri\nhttp://example.com/a.png\na.png\n")
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=str(tmp_path / "list.csv")))
    _, table = read_tables(range(2), job_of(AnnotateConfig(output=output)), 1)
    assert table["status"][0].as_py() == "fetch_error"
    assert "--allow-http" in table["error"][0].as_py()


def test_the_first_images_or_some_at_random_or_those_that_match(tmp_path):
    folder = str(files(tmp_path))

    def planned(name, **choice):
        output = str(tmp_path / name)
        ensure_plan(plan_config(output=output, input=folder, **choice))
        return [row["uri"].rsplit("/", 1)[1] for row in read_planned(output, range(0, 99), {}).to_pylist()]

    assert planned("limit", limit=3) == list(IMAGES)[:3]
    assert planned("sample", sample=5) == planned("again", sample=5)
    assert planned("sample-2", sample=5, seed=1) != planned("sample", sample=5)
    assert planned("include", include=("000[12].png",)) == ["0001.png", "0002.png"]
    assert planned("exclude", include=("000?.png",), exclude=("0005.*", "*9.png")) == [
        name for name in list(IMAGES)[:10] if name[3] not in "59"
    ]
    with pytest.raises(InputError, match="no images are left"):
        planned("none", include=("*.jpg",))


def test_extending_adds_what_is_new_and_tells_what_changed_and_is_gone(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sam_pipeline")
    folder, output = files(tmp_path), str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=str(folder)))
    before = read_planned(output, range(0, 99), {}).to_pylist()
    (folder / "0000-new.png").write_bytes(IMAGES["0000.png"])  # sorts in between
    (folder / "0003.png").write_bytes(IMAGES["0004.png"])
    (folder / "0005.png").unlink()
    assert ensure_plan(plan_config(output=output, input=str(folder))).num_images == 12
    assert ensure_plan(plan_config(output=output, input=str(folder), extend=True)).num_images == 13
    assert "1 new images, 1 changed, 1 gone" in caplog.text
    assert "--redo-changed" in caplog.text
    after = read_planned(output, range(0, 99), {}).to_pylist()
    assert after[:12] == before
    assert after[12]["uri"].endswith("0000-new.png")


def test_what_has_changed_is_planned_anew_and_pending_again(tmp_path):
    folder, output = files(tmp_path), str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=str(folder)))
    table = take_over(output)
    table.commit([shard(output, [row(image_id) for image_id in range(12)])])
    (folder / "0003.png").write_bytes(IMAGES["0004.png"] + b"longer")
    ensure_plan(plan_config(output=output, input=str(folder), extend=True, redo_changed=True))
    done = take_over(output).committed_ids(12)
    assert np.flatnonzero(~done).tolist() == [3]
    changed = read_planned(output, range(3, 4), {}).to_pylist()[0]
    assert changed["size_bytes"] == len(IMAGES["0004.png"]) + 6


def test_rows_that_are_added_to_a_parquet_file_leave_the_names_of_the_others(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sam_pipeline")
    output = str(tmp_path / "run")
    rows = [{"image": {"bytes": data, "path": name}} for name, data in IMAGES.items()]
    for count in (10, 11):
        pq.write_table(pa.Table.from_pylist(rows[:count]), tmp_path / "0.parquet")
        plan = ensure_plan(plan_config(output=output, input=str(tmp_path / "0.parquet"), extend=count == 11))
    assert "1 new images, 10 changed, 0 gone" in caplog.text
    assert plan.num_images == 11


def test_what_patterns_leave_out_now_is_not_said_to_be_gone(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sam_pipeline")
    folder, output = str(files(tmp_path)), str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=folder))
    ensure_plan(plan_config(output=output, input=folder, extend=True, exclude=("0001.png",)))
    assert "0 new images, 0 changed, 1 gone, or left out now" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "jsonl.gz", "pq"])
def test_a_manifest_may_come_in_parts(tmp_path, suffix):
    files(tmp_path)
    for number in range(3):
        names = list(IMAGES)[number::3]
        path = tmp_path / "in" / f"part-{number}.{suffix}"
        if suffix == "csv":
            path.write_text("\n".join(["uri", *names]))
        elif suffix == "pq":
            pq.write_table(pa.table({"uri": names}), path)
        else:
            path.write_bytes(gzip.compress(b"".join(json.dumps({"uri": name}).encode() + b"\n" for name in names)))
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=f"{tmp_path}/in/part-*.{suffix}"))
    planned = read_planned(output, range(99), {})["uri"].to_pylist()
    assert planned == [f"file://{tmp_path}/in/{name}" for name in IMAGES]
    folder = plan_config(output=str(tmp_path / "folder-run"), input=f"{tmp_path}/in", input_format="manifest")
    assert ensure_plan(folder).num_images == len(IMAGES)


def test_a_list_in_parquet_may_have_bytes_beside_its_uris(tmp_path):
    files(tmp_path)
    names = list(IMAGES)
    pq.write_table(pa.table({"url": names, "phash": [b"01234567"] * len(names)}), tmp_path / "in" / "list.parquet")
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=f"{tmp_path}/in/list.parquet"))
    assert [table["status"][0].as_py() for table in read(output)] == ["ok"] * len(names)


def test_files_that_are_no_images_are_counted_once_for_all_archives(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sam_pipeline")
    for number in range(3):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as made:
            made.writestr("a.png", IMAGES["0000.png"])
            made.writestr("a.txt", "no image")
    ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/*.zip"))
    assert [line for line in caplog.messages if "skipped" in line] == ["skipped 3 files that are not images"]


@pytest.mark.parametrize("settings", [{"keep": ("label",)}, {"input_column": "image"}])
def test_columns_of_what_has_none_are_refused(tmp_path, settings):
    for make in (files, archive):
        with pytest.raises(ConfigError, match="keep and input_column are for inputs with columns"):
            ensure_plan(plan_config(output=str(tmp_path / "run"), input=str(make(tmp_path)), **settings))


@pytest.mark.parametrize("settings", [{"keep": ("label",)}, {"input_column": "image"}])
def test_columns_of_a_folder_with_a_list_are_asked_for_and_its_images_are_not_denied(tmp_path, settings):
    folder = manifest(tmp_path).parent
    message = rf"^keep and input_column need a list, .*; {folder} has 1 manifest: if .*list\.csv lists images, give it"
    with pytest.raises(InputError, match=message):
        ensure_plan(plan_config(output=str(tmp_path / "run"), input=str(folder), **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 1, "input": "in", "extend": True}, "leave out limit and sample"),
        ({"sample": 1, "input": "in", "extend": True}, "leave out limit and sample"),
        ({"limit": 1, "sample": 1}, "give one of them"),
        ({"limit": 0}, "limit must be above 0"),
        ({"redo_changed": True}, "needs extend"),
        ({"extend": True, "input": None}, "say which with --input"),
    ],
)
def test_settings_that_clash_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_config(**({"output": "run", "input": "in"} | settings))


def test_a_manifest_may_name_images_in_several_filesystems(tmp_path):
    memory = fsspec.filesystem("memory")
    folder = files(tmp_path)
    for name in list(IMAGES)[:6]:
        memory.pipe_file(f"/{tmp_path.name}/{name}", IMAGES[name])
        (folder / name).unlink()
    uris = [f"memory://{tmp_path.name}/{name}" for name in list(IMAGES)[:6]] + list(IMAGES)[6:]
    (folder / "list.csv").write_text("\n".join(["uri", *uris]) + "\n")
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=str(folder / "list.csv")))
    assert [height for height, _ in pixels(read(output))] == [20 + index for index in range(12)]


def test_a_list_in_several_parts_may_be_a_folder_with_its_suffix(tmp_path):
    files(tmp_path)
    (tmp_path / "list.csv").mkdir()
    for number in range(3):
        names = [f"../in/{name}" for name in list(IMAGES)[number::3]]
        (tmp_path / "list.csv" / f"part-{number}.csv").write_text("\n".join(["uri", *names]))
    assert ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/list.csv")).num_images == len(
        IMAGES
    )


def test_a_list_of_lines_is_read(tmp_path):
    (files(tmp_path) / "list.txt").write_text("\n".join(IMAGES))
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=f"{tmp_path}/in/list.txt"))
    assert [table["status"][0].as_py() for table in read(output)] == ["ok"] * len(IMAGES)


@pytest.mark.parametrize("make", [tar, compressed_tar, archive, huggingface], ids=lambda make: make.__name__)
@pytest.mark.parametrize("pattern", ["", "/*", "/**"])
def test_a_folder_of_containers_needs_no_flag(tmp_path, make, pattern):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    (tmp_path / "in" / "README.md").write_text("no image")
    output = str(tmp_path / "run")
    assert ensure_plan(plan_config(output=output, input=f"{tmp_path}/in{pattern}")).num_images == len(IMAGES)


@pytest.mark.parametrize("make", [tar, huggingface], ids=lambda make: make.__name__)
@pytest.mark.parametrize("pattern", ["", "/**"])
def test_the_output_of_another_run_below_the_input_is_no_part_of_it(tmp_path, make, pattern, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    for run in ("run1", "run2"):
        output = f"{tmp_path}/in/{run}"
        assert ensure_plan(plan_config(output=output, input=f"{tmp_path}/in{pattern}")).num_images == len(IMAGES)
        take_over(output).commit([shard(output, [row(0)])])
    assert any("passed over 2 folders of Delta tables" in said for said in caplog.messages)


def test_a_folder_of_parquet_files_may_be_read_with_what_is_kept(tmp_path):
    (tmp_path / "in").mkdir()
    rows = [{"image": data, "label": name} for name, data in IMAGES.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "0.parquet")
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=f"{tmp_path}/in", keep=("label",)))
    assert json.loads(read_planned(output, [0], {})["extra"][0].as_py()) == {"label": "0000.png"}


def test_archives_beside_images_are_skipped_and_it_is_said_how_they_are_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sam_pipeline")
    folder = files(tmp_path)
    tar(folder)
    huggingface(folder)
    assert ensure_plan(plan_config(output=str(tmp_path / "run"), input=str(folder))).num_images == len(IMAGES)
    assert "skipped 2 files that are not images; --input-format parquet or webdataset reads some of them" in caplog.text


def test_a_folder_of_several_kinds_or_of_lists_is_asked_about(tmp_path):
    (tmp_path / "in").mkdir()
    archive(tmp_path / "in")
    tar(tmp_path / "in")
    with pytest.raises(InputError, match=r"no images in .* other kinds \(1 webdataset, 1 zip\): .* --input-format"):
        ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/in"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "photos.csv").write_text("uri\na.jpg\n")
    with pytest.raises(InputError, match=r"no images in .* other kinds \(1 manifest\): if .*photos.csv lists images"):
        ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/lists"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.docx", b"PK\x03\x04" + bytes(600), "begins as a zip archive does: --input-format says how"),
        ("data", b"PAR1" + bytes(600), "begins as a Parquet file does"),
        ("notes.md", b"# Notes", r"no image, nor a file that is called as one of these: images \(\.jpg, .*COCO"),
        ("empty", b"", "no image, nor a file that is called as one of these"),
    ],
)
def test_a_file_of_no_known_kind_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/{name}"))
    assert not (tmp_path / "run").exists()


def test_an_image_without_a_suffix_is_known_by_its_first_bytes(tmp_path):
    (tmp_path / "photo").write_bytes(IMAGES["0000.png"])
    assert ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/photo")).num_images == 1


def test_a_tar_without_a_suffix_is_read_when_its_format_is_said(tmp_path):
    tar(tmp_path, name="shard")
    with pytest.raises(InputError, match="begins as a tar archive does"):
        ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/shard"))
    plan = ensure_plan(plan_config(output=str(tmp_path / "run"), input=f"{tmp_path}/shard", input_format="webdataset"))
    assert plan.num_images == len(IMAGES)


def test_an_input_that_holds_nothing_is_said_in_one_line(tmp_path):
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match=r"no images are left of .*empty.parquet"):
        ensure_plan(plan_config(output=str(tmp_path / "run"), input=str(tmp_path / "empty.parquet")))
