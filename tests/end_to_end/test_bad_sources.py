"""Lists and containers that cannot be planned: one line, exit code 2, and nothing is left behind. Needs no Ray.

What is bad about single images of an input ends as rows: tests/pipeline/test_bad_inputs.py, and through a whole run
test_sources.py. Buckets, keys, outputs and weights: test_refusals.py.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.sources import NAMES
from tests.end_to_end.test_refusals import assert_refused

CSV = "uri,caption\n" + "".join(f"{name},a photograph\n" for name in NAMES)


def parquet(columns):
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue().to_pybytes()


URIS = {"uri": list(NAMES), "caption": ["a photograph"] * len(NAMES)}

REFUSED = {
    "column of a CSV": ("list.csv", CSV, ["--input-column", "path"], ["no column 'path'", "'uri', 'caption'"]),
    "column to keep": ("list.csv", CSV, ["--keep", "label"], ["no column 'label'", "'uri', 'caption'"]),
    "CSV without rows": ("list.csv", "uri\n", [], ["it has no rows"]),
    "COCO without images": ("coco.json", json.dumps({"images": []}), [], ["its list of images is empty"]),
    "HTML for Parquet": ("list.parquet", "<html>404 Not Found</html>", [], ["cannot read"]),
    "no column of images": ("list.parquet", parquet(URIS), ["--input-format", "parquet"], ["no images can be read"]),
    "tar without images": ("0.tar", bytes(10_240), [], ["no images are left of"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_planned_is_one_line_and_no_plan(start, tmp_path, case):
    name, content, flags, clues = REFUSED[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    output = tmp_path / "out"
    finished = start("plan", "--input", tmp_path / name, "--output", output, *flags).wait()
    assert_refused(finished, name, *clues)
    assert not output.exists()
