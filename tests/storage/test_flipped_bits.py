"""Of bits that flip in a shard at rest none gives wrong data while `verify` is satisfied."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sam_pipeline.errors import DamagedFileError, OutputError, SamPipelineError
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.maintenance.verify import verify
from sam_pipeline.storage.tables.plan import extend_plan
from sam_pipeline.storage.tables.reading.result_reading import read_results
from sam_pipeline.storage.tables.results import open_results
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA, MASKS_SCHEMA
from tests.storage import runs
from tests.storage.runs import failed_row, finished, row, take_over

NUM_IMAGES = 60


def as_put(output):
    finished(output, [failed_row(image_id) if image_id % 7 == 3 else row(image_id) for image_id in range(NUM_IMAGES)])


def compacted(output):
    as_put(output)
    take_over(output).compact()


def rewritten(output):
    compacted(output)
    take_over(output).delete_images(np.arange(0, NUM_IMAGES, 2))


def committed_paths(output):
    return [Path(uri.removeprefix("file://")) for uri in sorted(open_results(output, {}).file_uris())]


def rows(output):
    return read_results(open_results(output, {}), MASKS_SCHEMA.names, None, {}).sort_by("image_id")


@pytest.mark.parametrize("num_flips", [66, pytest.param(667, marks=pytest.mark.soak)])
@pytest.mark.parametrize("make", [as_put, compacted, rewritten])
def test_no_flipped_bit_passes_verification(tmp_path, make, num_flips):
    output = str(tmp_path)
    make(output)
    before, sound = rows(output), verify(output, {})
    assert sound.damaged_files == []
    path = committed_paths(output)[0]
    content = path.read_bytes()
    num_bits = 8 * len(content)
    outcomes = {"refused": 0, "same": 0, "other": 0}
    # Spread evenly, ends included: the footer is at the end.
    for bit in np.linspace(0, num_bits - 1, num_flips).astype(int).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert [file.path for file in verify(output, {}).damaged_files] == [path.name], f"bit {bit}"
        outcomes[read_again(output, before)] += 1
    path.write_bytes(content)
    assert verify(output, {}).damaged_files == []
    # What is left are footers and headers of pages, which have no checksum of their own.
    assert outcomes["other"] <= 0.05 * num_flips, outcomes


def read_again(output, before):
    """What a reader gets that does not verify: it looks at the checksums of pages, not at those of files."""
    try:
        after = rows(output)
    except SamPipelineError:
        return "refused"
    return "same" if after.equals(before) else "other"


@pytest.mark.parametrize(
    "rewrite", [lambda table: table.compact(), lambda table: table.delete_images(np.arange(0, NUM_IMAGES, 2))]
)
def test_no_flipped_bit_gets_a_checksum_of_its_own(tmp_path, rewrite):
    output = str(tmp_path)
    as_put(output)
    path = committed_paths(output)[0]
    content = path.read_bytes()
    for bit in range(8 * len(content) - 8, 8 * len(content) - 8 * 4000, -1600):  # in the footer
        flipped = bytearray(content)
        flipped[bit // 8] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(OutputError):
            rewrite(take_over(output))
        assert len(committed_paths(output)) == 2


def test_no_flipped_bit_of_a_plan_is_carried_on_when_it_is_corrected(tmp_path):
    plan = runs.plan(str(tmp_path), 9)
    (path,) = Path(plan.output, "images").glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    changed = source_table([SourceObject("file:///in/0000.jpg", 1, "e")])
    changed = changed.add_column(0, IMAGES_SCHEMA.field("image_id"), pa.array([0]))
    with pytest.raises(DamagedFileError, match="is damaged"):
        extend_plan(plan, changed.select([]).slice(0, 0), changed, {})
