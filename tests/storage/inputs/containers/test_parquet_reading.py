import io
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.storage.inputs.containers import parquet_reading
from sam_pipeline.storage.inputs.containers.parquet_reading import read_parquet_rows
from tests.storage.inputs.parquet_files import data_of, hugging_face, read, write


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_rows_are_read_in_one_pass_and_come_with_their_own_bytes(tmp_path, kind, monkeypatch):
    columns = {
        "other": list(range(1000)),
        "image": pa.array([data_of(row) for row in range(1000)], pa.binary()).cast(kind),
    }
    container = write(tmp_path / "a.parquet", columns, row_group_size=300)
    groups = []
    real = pq.ParquetFile.iter_batches

    def iter_batches(self, *arguments, row_groups, columns, **options):
        assert columns == ["image"]
        groups.extend(row_groups)
        return real(self, *arguments, row_groups=row_groups, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    rows = [0, 1, 255, 256, 257, 299, 300, 901, 999]
    assert read(container, "image", rows) == {row: data_of(row) for row in rows}
    assert groups == [0, 1, 3]


def test_hugging_faces_struct_is_read_by_its_bytes(tmp_path):
    values = [{"bytes": data_of(row), "path": f"{row}.jpg"} for row in range(700)]
    container = write(tmp_path / "a.parquet", {"image": hugging_face(values), "label": [1] * 700}, row_group_size=500)
    rows = [0, 255, 256, 300, 499, 500, 699]
    assert read(container, "image.bytes", rows) == {row: data_of(row) for row in rows}


def test_rows_that_go_back_are_read_all_the_same(tmp_path):
    container = write(tmp_path / "a.parquet", {"image": [data_of(row) for row in range(50)]}, row_group_size=20)
    rows = [30, 3, 49, 10, 2, 11, 11, 45]
    assert list(read_parquet_rows(container.uri, "image", rows, {})) == [(row, data_of(row)) for row in rows]


def test_a_row_beyond_the_last_is_said_to_be(tmp_path):
    container = write(tmp_path / "a.parquet", {"image": [b"x", b"y"]})
    found = read(container, "image", [1, 2, 7])
    assert found[1] == b"y"
    assert str(found[2]) == "no row 2: there are 2"
    assert str(found[7]) == "no row 7: there are 2"


def test_null_images_say_so_when_they_are_read(tmp_path):
    container = write(tmp_path / "a.parquet", {"image": pa.array([b"x", None, b"", b"y"])})
    found = read(container, "image", [0, 1, 2, 3])
    assert (found.pop(1).args, found) == (("the image is null",), {0: b"x", 2: b"", 3: b"y"})


def damage(path, column=0, group=1):
    """Overwrite the pages of one column of one row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_damaged_row_group_is_an_answer_for_each_of_its_rows(tmp_path, compression):
    path = tmp_path / "a.parquet"
    values = [data_of(row) for row in range(30)]
    container = write(path, {"image": values}, row_group_size=10, compression=compression)
    damage(path)
    rows = [0, 9, 10, 15, 19, 20, 29]
    found = read(container, "image", rows)
    assert list(found) == rows
    assert {row: found[row] for row in (0, 9, 20, 29)} == {row: data_of(row) for row in (0, 9, 20, 29)}
    assert all(str(found[row]).startswith("the Parquet file is damaged here: ") for row in (10, 15, 19))
    assert {type(found[row]) for row in (10, 15, 19)} == {parquet_reading.UnreadableRowError}


def test_checksums_are_looked_at_where_there_are_some(tmp_path):
    path = tmp_path / "a.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    container = write(path, {"image": [b"a" * 100, b"b" * 100]}, **options)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"b" * 100, b"c" * 100))
    assert all("damaged" in str(error) for error in read(container, "image", [0, 1]).values())


def test_what_is_read_before_the_damage_is_given(tmp_path):
    path = tmp_path / "a.parquet"
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    container = write(path, {"image": [data_of(row) for row in range(600)]}, **options)
    data = path.read_bytes()
    start = data.index(data_of(400)) - 20  # in the header of its page
    path.write_bytes(data[:start] + b"\xff" * 40 + data[start + 40 :])
    found = read(container, "image", [0, 100, 599])
    assert found[0] == data_of(0)
    assert found[100] == data_of(100)
    assert "damaged" in str(found[599])


class BreakingFile(io.BytesIO):
    """A file whose storage fails from some time on."""

    error = None

    def read(self, *arguments):
        if self.error is not None:
            raise self.error
        return super().read(*arguments)


def from_client(text):
    error = OSError(text)
    error.__cause__ = ValueError("what the client said")
    return error


@pytest.mark.parametrize(
    "error", [TimeoutError("no answer"), PermissionError("denied"), OSError(5, "I/O error"), from_client("refused")]
)
def test_what_the_storage_says_is_raised(tmp_path, monkeypatch, error):
    container = write(tmp_path / "a.parquet", {"image": [data_of(row) for row in range(3000)]}, row_group_size=1000)
    file = BreakingFile((tmp_path / "a.parquet").read_bytes())
    filesystem = SimpleNamespace(open=lambda *arguments, **options: file)
    monkeypatch.setattr(parquet_reading, "open_filesystem", lambda *arguments: (filesystem, ""))
    found = read_parquet_rows(container.uri, "image", [0, 2000], {})
    assert next(found) == (0, data_of(0))
    file.error = error
    with pytest.raises(type(error)) as caught:
        next(found)
    assert caught.value is error or str(caught.value) == str(error)


def test_a_container_that_is_gone_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(read_parquet_rows(str(tmp_path / "none.parquet"), "image", [0], {}))


def test_a_row_group_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_reading, "_BUFFER_BYTES", 1 << 20)
    options = {"compression": "none", "use_dictionary": False, "write_batch_size": 1}
    container = write(tmp_path / "a.parquet", {"image": [b"x" * 250_000] * 200}, **options)
    file = CountingFile((tmp_path / "a.parquet").read_bytes())
    filesystem = SimpleNamespace(open=lambda *arguments, **options: file)
    monkeypatch.setattr(parquet_reading, "open_filesystem", lambda *arguments: (filesystem, ""))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_parquet_rows(container.uri, "image", range(200), {})]
    assert len(held) == 200
    assert max(held) < 8 << 20
    assert max(file.sizes) < 2 << 20


class CountingFile(io.BytesIO):
    """A file that remembers how much was read at once."""

    def __init__(self, data):
        super().__init__(data)
        self.sizes = []

    def read(self, *arguments):
        data = super().read(*arguments)
        self.sizes.append(len(data))
        return data
