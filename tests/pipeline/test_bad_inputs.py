"""Inputs that are damaged in part: what can be read is read, and what cannot is counted as rows that say why."""

import io
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.pipeline.plan import ensure_plan
from tests.configs import plan_config
from tests.pipeline.jobs import job_of
from tests.pipeline.reading import read_tables
from tests.storage.image_files import noise, saved

IMAGES = {f"{index:04}.png": saved(noise(30, 30, seed=index), "PNG") for index in range(12)}
"""Different pixels each, or a compressed archive would hold all of them in its first bytes."""


def tar(path, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in IMAGES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(folder, source, **settings):
    """Plan and read; for each image its uri below the folder, status and error, in the order of the plan."""
    output = str(folder / "run")
    num_images = ensure_plan(plan_config(output=output, input=str(source), **settings)).num_images
    job = job_of(AnnotateConfig(output=output))
    tables = read_tables(range(num_images), job, 5)
    rows = sorted((row for table in tables for row in table.to_pylist()), key=lambda row: row["image_id"])
    return [(row["uri"].removeprefix(f"file://{folder}/"), row["status"], row["error"]) for row in rows]


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize(("name", "mode"), [("0.tar", "w"), ("0.tar.gz", "w:gz"), ("0.tar.xz", "w:xz")])
def test_of_a_tar_that_was_cut_in_the_middle_the_images_before_are_read_and_one_row_says_so(tmp_path, name, mode):
    source = cut(tar(tmp_path / name, mode), 0.5)
    (uri, status, error), *whole = read(tmp_path, source)  # "#" alone sorts first
    assert 3 < len(whole) < len(IMAGES) - 3
    assert whole == [(f"{name}#{member}", "ok", None) for member in list(IMAGES)[: len(whole)]]
    assert (uri, status) == (f"{name}#", "fetch_error")
    assert error.startswith("archive ends early after ")


def test_beside_archives_that_are_none_the_others_are_read(tmp_path):
    (tmp_path / "in").mkdir()
    tar(tmp_path / "in" / "0.tar")
    (tmp_path / "in" / "1.tar").write_bytes(b"<html>404 Not Found</html>")
    (tmp_path / "in" / "2.tar").write_bytes(b"")
    rows = read(tmp_path, tmp_path / "in", input_format="webdataset")
    assert [row[:2] for row in rows if row[1] == "ok"] == [(f"in/0.tar#{name}", "ok") for name in IMAGES]
    bad = {uri: (status, error) for uri, status, error in rows if status != "ok"}
    assert bad.keys() == {"in/1.tar#", "in/2.tar#"}
    assert all(status == "fetch_error" and "not a tar archive" in error for status, error in bad.values())


def test_a_zip_that_was_cut_is_one_row_that_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("0.zip", "1.zip"):
        with zipfile.ZipFile(tmp_path / "in" / name, "w") as archive:
            for member, data in IMAGES.items():
                archive.writestr(member, data)
    cut(tmp_path / "in" / "0.zip", 0.5)
    (uri, status, error), *others = read(tmp_path, tmp_path / "in")
    assert (uri, status) == ("in/0.zip#", "fetch_error")
    assert "zip" in error
    assert [status for _, status, _ in others] == ["ok"] * len(IMAGES)


def test_rows_of_parquet_without_a_picture_say_so_and_the_others_are_read(tmp_path):
    first, second, *_ = IMAGES.values()
    pictures = [first, None, b"", b"<html>404 Not Found</html>", second, None, None]
    # Two row groups: of the second, all of whose images are null, planning knows; of the first, reading finds out.
    pq.write_table(pa.table({"image": pa.array(pictures, pa.binary())}), tmp_path / "0.parquet", row_group_size=5)
    rows = read(tmp_path, tmp_path / "0.parquet")
    assert [uri for uri, _, _ in rows] == [f"0.parquet#{row:09}" for row in range(7)]
    assert [status for _, status, _ in rows] == [
        *("ok", "fetch_error", "decode_error", "decode_error", "ok", "fetch_error", "fetch_error")
    ]
    assert [row for row, (_, _, error) in enumerate(rows) if error and "null" in error] == [1, 5, 6]
