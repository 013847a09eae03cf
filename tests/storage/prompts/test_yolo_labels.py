import os

import pytest

from sam_pipeline.errors import InputError, StorageUnavailableError
from sam_pipeline.storage.inputs import fetching
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.prompts import yolo_labels
from sam_pipeline.storage.prompts.prompt_files import list_prompt_files, read_regions
from sam_pipeline.storage.prompts.yolo_labels import yolo_prompts
from tests.storage.prompts.reading import read_rows

LINE = "3 0.5 0.5 0.5 0.5\n"


def put(folder, **files):
    for name, content in files.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def rows_of_line(tmp_path, line):
    put(tmp_path, a=line)
    return read_rows(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("line", "category_id", "score"),
    [
        ("3 0.5 0.5 0.5 0.5", 3, None),
        ("3.0 0.5 0.5 0.5 0.5 0.25", 3, 0.25),
        ("\ufeff  3\t0.5 0.5  0.5 0.5 \r", 3, None),
        ("-1 0.5 0.5 0.5 0.5 1e-3", -1, 0.001),
        ("3 0.5 0.5 0.5 0.5 1.0", 3, 1.0),
        ("3 0.5 0.5 0.5 0.5 0.9 7", 3, 0.9),
        ("3 0.5 0.5 0.5 0.5 1 1", 3, 1.0),
        ("3 0.5 0.5 0.5 0.5 7", 3, None),
        ("3 0.5 0.5 0.5 0.5 1", 3, None),
        ("3 0.5 0.5 0.5 0.5 1e+06", 3, None),
    ],
)
def test_ways_to_write_a_box(tmp_path, line, category_id, score):
    (row,) = rows_of_line(tmp_path, line)
    assert (row["category_id"], row["score"], row["error"]) == (category_id, score, None)
    assert row["box_xyxy"] == [0.25, 0.25, 0.75, 0.75]
    assert row["is_relative"] is True


@pytest.mark.parametrize(
    ("line", "category_id", "score"),
    [
        ("3", 3, None),
        ("3 0.5 0.5 0.5", 3, None),
        ("3 0.5 0.5 0.5 0.5 1.5", 3, None),
        ("3 0.5 0.5 0.5 0.5 97.5", 3, None),
        ("3 0.5 0.5 0.5 0.5 -0.1", 3, None),
        ("3 0.5 0.5 0.5 0.5 -3", 3, None),
        ("3 0.5 0.5 0.5 0.5 7 0.9", 3, None),
        ("3 0.5 0.5 0.5 0.5 0.9 -1", 3, None),
        ("3 0.5 0.5 0.5 0.5 0.9 7 8", 3, None),
        ("3 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", 3, None),
        ("3 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2 0.9", 3, None),
        ("3 0.5 0.5 0.5 0.5 " + "0.5 0.5 2 " * 17, 3, None),
        ("3 0.5 0.5 0.5 0.5 1_0", 3, None),
        ("3 0.5 x 0.5 0.5", 3, None),
        ("3 0.5 inf 0.5 0.5", 3, None),
        ("3 0.5 0.5 0.5 0.5 nan", 3, None),
        ("3 320 240 600 400", 3, None),
        ("3 0.5 5 3 3 0.9", 3, None),
        ("dog 0.5 0.5 0.5 0.5 0.75", None, None),
        ("3.5 0.5 0.5 0.5 0.5", None, None),
        ("99999999999999999999 0.5 0.5 0.5 0.5", None, None),
        (b"\xff\xfe 0.5 0.5 0.5 0.5", None, None),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", 0, None),
    ],
)
def test_other_lines_are_errors_and_never_a_wrong_score(tmp_path, line, category_id, score):
    (row,) = rows_of_line(tmp_path, line)
    assert row["error"].startswith("the line must be class cx cy w h [confidence] [track]; ")
    assert (row["key"], row["category_id"], row["score"], row["box_xyxy"]) == ("a", category_id, score, None)


def test_what_a_fifth_number_is_shows_in_the_whole_file(tmp_path):
    box = "3 0.5 0.5 0.5 0.5"
    put(tmp_path, tracks=f"{box} 1\n{box} 2\n{box} 12", confidences=f"{box} 1\n{box} 0.25\n{box} 0\n{box} 7")
    rows = read_rows(tmp_path)
    assert [(row["score"], row["error"] is None) for row in rows if row["key"] == "tracks"] == [(None, True)] * 3
    found = [(row["score"], row["error"]) for row in rows if row["key"] == "confidences"]
    assert found[:3] == [(1, None), (0.25, None), (0, None)]
    assert found[3][1].endswith("its confidence is 7, not in [0, 1]")


def test_a_confidence_before_a_track_shows_what_a_fifth_number_is(tmp_path):
    box = "3 0.5 0.5 0.5 0.5"
    put(tmp_path, a=f"{box} 0.9 3\n{box} 1", b=f"{box} 1 3\n{box} 1")
    rows = read_rows(tmp_path)
    assert [(row["score"], row["error"]) for row in rows] == [(0.9, None), (1, None), (1, None), (None, None)]


def test_lines_end_as_in_any_text_file(tmp_path):
    put(tmp_path, a="1 0.5 0.5 0.5 0.5\r\n\r2 0.5 0.5\u20280.5 0.5\n")
    assert [(row["category_id"], row["prompt_id"], row["error"]) for row in read_rows(tmp_path)] == [
        (1, 0, None),
        (2, 2, None),
    ]


def test_six_numbers_among_polygons_are_a_triangle(tmp_path):
    triangle, square = "3 0.1 0.2 0.3 0.4 0.9 1", "3 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2"
    put(tmp_path, a=f"{triangle}\n{square}\n")
    assert all("may be a polygon" in row["error"] for row in read_rows(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("labels.v2", ["a.b", "train/0001", "train/x/0002"]),
        ("labels.v2/", ["a.b", "train/0001", "train/x/0002"]),
        ("labels.v2/train", ["0001", "x/0002"]),
        ("labels.v2/train/0001.txt", ["0001"]),
        ("labels.v2/*.txt", ["a.b"]),
        ("labels.v2/tr*/*", ["train/0001"]),
        ("labels.v2/**/*.txt", ["a.b", "train/0001", "train/x/0002"]),
    ],
)
def test_images_are_called_by_the_path_below_what_was_named(tmp_path, pattern, keys):
    put(tmp_path / "labels.v2", **{"a.b": LINE, "train/0001": LINE, "train/x/0002": LINE, "train/classes": "dog"})
    assert [row["key"] for row in read_rows(f"{tmp_path}/{pattern}")] == keys


def test_suffixes_in_capitals_and_odd_names(tmp_path):
    names = ["A.TXT", "with space.txt", "a#b.txt", "100%25.txt", "what?.txt", "a[1].txt", "é.txt"]
    for name in names:
        (tmp_path / name).write_text(LINE)
    (tmp_path / "Classes.txt").write_text("dog")
    assert {row["key"] for row in read_rows(tmp_path)} == {name[:-4] for name in names}


def test_a_name_that_is_no_text_names_no_image(tmp_path):
    put(tmp_path, a=LINE)
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text(LINE)
    unnamed, named = read_rows(tmp_path)
    assert (unnamed["key"], unnamed["error"]) == (None, "the name of the file is not UTF-8")
    assert (named["key"], named["error"]) == ("a", None)


@pytest.mark.parametrize("limit", ["_FILES_AT_ONCE", "_BYTES_AT_ONCE"])
def test_files_are_read_some_at_a_time(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(yolo_labels, limit, 3 if limit == "_FILES_AT_ONCE" else 3 * len(LINE))
    asked = []
    monkeypatch.setattr(
        yolo_labels, "fetch", lambda files, *_: asked.append(len(files)) or [LINE.encode()] * len(files)
    )
    put(tmp_path, **{f"{number:02}": LINE for number in range(10)}, classes="dog")
    assert [row["key"] for row in read_rows(tmp_path)] == [f"{number:02}" for number in range(10)]
    assert asked == [3, 3, 3, 1]


def test_labels_are_regions_too(tmp_path):
    put(tmp_path, a=LINE)
    (row,) = read_rows(tmp_path, read_regions)
    assert (row["box_xyxy"], row["is_relative"]) == ([0.25, 0.25, 0.75, 0.75], True)


@pytest.mark.parametrize("now", ["", LINE * 2, LINE[:-3]], ids=["empty", "grown", "shrunk"])
def test_a_file_that_changed_since_it_was_listed_is_an_input_error(tmp_path, now):
    put(tmp_path, a=LINE)
    files = list_prompt_files(str(tmp_path), {})
    put(tmp_path, a=now)
    with pytest.raises(InputError, match=r"cannot read .*a\.txt: planned with 18 bytes, now"):
        list(yolo_prompts(files, str(tmp_path), {}))


def test_a_file_that_is_gone_is_an_input_error_that_names_it(tmp_path):
    put(tmp_path, a=LINE, b=LINE)
    files = list_prompt_files(str(tmp_path), {})
    (tmp_path / "b.txt").unlink()
    with pytest.raises(InputError, match=r"cannot read .*b\.txt"):
        list(yolo_prompts(files, str(tmp_path), {}))


def test_files_of_unknown_size_are_read_whole(tmp_path):
    put(tmp_path, a=LINE)
    (table,) = yolo_prompts([SourceObject(f"file://{tmp_path}/a.txt", None, None)], str(tmp_path), {})
    assert table["key"].to_pylist() == ["a"]


class Store:
    """Answers to who asks for a.txt, in turn and the last again and again; b.txt is empty."""

    def __init__(self, *answers, is_down=False):
        self.answers = list(answers)
        self.is_down = is_down
        self.calls = []

    def _strip_protocol(self, uri):
        return uri.removeprefix("s3://")

    def cat_ranges(self, paths, starts, ends, on_error):
        assert on_error == "return"
        self.calls.append((paths, starts, ends))
        return [self._next() if path.endswith("a.txt") else b"" for path in paths]

    def cat_file(self, path, start, end):
        if self.is_down:
            raise ConnectionError("reset")
        if path.endswith("a.txt") and isinstance(self.answers[0], PermissionError):
            raise self.answers[0]

    def _next(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def invalidate_cache(self):
        pass

    def info(self, path):
        return {"name": path, "size": len(LINE), "ETag": "1"}

    def unstrip_protocol(self, path):
        return f"s3://{path}"


@pytest.fixture
def store(monkeypatch):
    def make(*answers, **state):
        made = Store(*answers, **state)
        for module in (yolo_labels, fetching):
            monkeypatch.setattr(module, "open_filesystem", lambda uri, options: (made, uri.removeprefix("s3://")))
        return made

    return make


FILES = [SourceObject("s3://b/labels/a.txt", len(LINE), "1"), SourceObject("s3://b/labels/b.txt", 0, "2")]


def test_a_store_is_asked_for_ranges_since_a_whole_object_costs_two_requests(store):
    made = store(LINE.encode())
    (table,) = yolo_prompts(FILES, "s3://b/labels", {})
    assert table["key"].to_pylist() == ["a"]
    assert made.calls == [(["b/labels/a.txt", "b/labels/b.txt"], [0, None], [len(LINE) + 1, None])]


def test_what_may_pass_or_was_cut_in_silence_is_asked_for_again_and_nothing_else(store, clock):
    made = store(ConnectionError("reset"), LINE[:-1].encode(), TimeoutError(), LINE.encode())
    (table,) = yolo_prompts(FILES, "s3://b/labels", {})
    assert table["error"].to_pylist() == [None]
    assert [len(paths) for paths, _, _ in made.calls] == [2, 1, 1, 1]


def test_a_store_that_does_not_answer_stops_the_run(store, clock):
    store(ConnectionError("reset"), is_down=True)
    with pytest.raises(StorageUnavailableError, match="cannot read s3://b/labels"):
        list(yolo_prompts(FILES, "s3://b/labels", {}))


def test_what_does_not_pass_is_an_input_error(store, clock):
    store(PermissionError(13, "no"))
    with pytest.raises(InputError, match=r"cannot read s3://b/labels/a\.txt"):
        list(yolo_prompts(FILES, "s3://b/labels", {}))
