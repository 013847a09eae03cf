"""Small files that stand for far more: each is one line or rows with an error, in bounded memory.

Each is read in a process of its own, whose memory is measured.
"""

import os
import subprocess
import sys

import pytest

from sam_pipeline.safety.regular_files import NotRegularFileError
from sam_pipeline.storage.inputs.fetching import TooLargeToFetchError
from sam_pipeline.storage.inputs.reading import fetch_images
from sam_pipeline.storage.inputs.source_object import SourceObject
from tests.storage import hostile_files
from tests.storage.hostile_files import INPUTS, MIB

QUICK = (
    *("Parquet images, one value", "Parquet list, one value"),
    *("CSV of one field", "JSON Lines of one line", "JSON of 10 GB"),
)
SLOW = [pytest.param(name, marks=pytest.mark.soak) for name in INPUTS if name not in QUICK]
MOST_MIB = 512 + 300
"""What reading a list holds at most, and 300 MB more."""

PREFACE = """
import sys
from sam_pipeline.config import InputConfig, PlanConfig
from sam_pipeline.errors import InputError
from sam_pipeline.storage.prompts.prompt_files import PromptOptions, read_prompts
from sam_pipeline.storage.inputs.reading import fetch_images
from sam_pipeline.storage.inputs.list_input import list_input
from sam_pipeline.storage.inputs.source_object import object_of_row

def peak():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
"""

PLAN = """
try:
    images = list_input(PlanConfig(output="run", images=InputConfig(input=sys.argv[1]))).images
    fetched = fetch_images([object_of_row(row) for row in images.slice(0, 256).to_pylist()], {}, None)
    print(images.num_rows, sum(isinstance(data, Exception) for data in fetched), end=" ")
except InputError as error:
    assert len(str(error).splitlines()) == 1
    print("refused", end=" ")
print(peak() - before)
"""

PROMPTS = """
try:
    print(sum(part.num_rows for part in read_prompts(sys.argv[1], PromptOptions({}))), end=" ")
except InputError as error:
    assert len(str(error).splitlines()) == 1
    print("refused", end=" ")
print(peak() - before)
"""


def outcome_and_peak(program, path):
    command = [sys.executable, "-c", PREFACE + program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *outcome, peak_mib = done.stdout.split()
    return outcome, int(peak_mib)


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_hostile_input_is_one_line_or_rows_in_bounded_memory(tmp_path, name):
    outcome, peak_mib = outcome_and_peak(PLAN, INPUTS[name](tmp_path))
    assert peak_mib < MOST_MIB
    assert outcome == ["refused"] or int(outcome[0]) > 0


PROMPT_FILES = {
    "one name": lambda folder: hostile_files.parquet_of_one_value(folder, "file_name", "u" * (32 * MIB), beside="bbox"),
    "JSON of 10 GB": hostile_files.json_of_gigabytes,
    "one line": hostile_files.json_lines_of_one_line,
}


@pytest.mark.parametrize("make", PROMPT_FILES.values(), ids=PROMPT_FILES)
def test_hostile_prompts_are_one_line_or_rows_in_bounded_memory(tmp_path, make):
    _, peak_mib = outcome_and_peak(PROMPTS, make(tmp_path))
    assert peak_mib < MOST_MIB


@pytest.mark.soak
def test_boxes_of_a_million_numbers_take_bounded_memory(tmp_path):
    _, peak_mib = outcome_and_peak(PROMPTS, hostile_files.parquet_of_long_lists(tmp_path))
    assert peak_mib < MOST_MIB


def test_what_is_no_regular_file_is_a_row_and_the_others_come(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    os.mkdir(tmp_path / "folder.jpg")
    os.symlink("fifo.jpg", tmp_path / "link.jpg")
    os.symlink("/dev/zero", tmp_path / "zero.jpg")
    (tmp_path / "fine.jpg").write_bytes(b"content")
    names = ("fifo", "folder", "link", "zero", "/dev/zero", "fine")
    uris = [name if name.startswith("/") else f"{tmp_path}/{name}.jpg" for name in names]
    *others, fine = fetch_images([SourceObject(f"file://{uri}", None, None) for uri in uris], {}, None)
    kinds = [type(answer) for answer in others]
    assert kinds == [NotRegularFileError, IsADirectoryError, *[NotRegularFileError] * 3]
    assert fine == b"content"


def test_of_images_of_unknown_size_the_large_ones_come_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("sam_pipeline.storage.inputs.reading._BYTES_AT_ONCE", 80)
    monkeypatch.setattr("sam_pipeline.storage.inputs.fetching.MAX_IMAGE_BYTES", 1000)
    sizes = (5, 500, 10, 11, 2000, 7)
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(bytes(size))
    images = [SourceObject(f"file://{tmp_path}/{number}", None, None) for number in range(len(sizes))]
    answers = list(fetch_images(images, {}, None))
    assert isinstance(answers.pop(4), TooLargeToFetchError)
    assert [len(answer) for answer in answers] == [5, 500, 10, 11, 7]


def test_images_of_known_size_come_in_groups_of_some_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("sam_pipeline.storage.inputs.reading._BYTES_AT_ONCE", 80)
    asked = []
    monkeypatch.setattr(
        "sam_pipeline.storage.inputs.reading.fetch",
        lambda images, *_, **__: asked.append([image.size_bytes for image in images]) or [b""] * len(images),
    )
    images = [SourceObject(f"file://{tmp_path}/{size}", size, None) for size in (30, 50, 1, 200, 79, 1, 1)]
    assert len(list(fetch_images(images, {}, None))) == 7
    assert asked == [[30, 50], [1], [200], [79, 1], [1]]


def test_a_file_that_grows_is_read_no_further_than_it_was(tmp_path):
    (tmp_path / "a").write_bytes(bytes(10))
    image = SourceObject(f"file://{tmp_path}/a", 5, None)
    (answer,) = fetch_images([image], {}, None)
    assert str(answer) == "planned with 5 bytes, now 10"
