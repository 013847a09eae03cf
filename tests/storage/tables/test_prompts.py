import numpy as np
import pyarrow as pa
import pytest

from sam_pipeline.errors import FencedError
from sam_pipeline.storage.tables import prompts as prompt_table
from sam_pipeline.storage.tables.delta import open_table
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.prompts import (
    announce_prompts,
    announced_generation,
    discard_prompts,
    extend_prompts,
    read_prompts_header,
    write_prompts,
)
from sam_pipeline.storage.tables.reading.prompt_reading import count_prompts, read_image_prompts
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA

SOURCE = {"prompts": "/p.json", "min_score": 0.5}


def prompt(image_id, prompt_id, role="prompt", **fields):
    given = {"image_id": image_id, "prompt_id": prompt_id, "role": role, "is_relative": False}
    return given | {"box_xyxy": [1.0, 2.0, 3.0, 4.5]} | fields


def table_of(*rows):
    return pa.Table.from_pylist(list(rows), schema=PROMPTS_SCHEMA)


PROMPTS = table_of(
    prompt(0, 7, category_id=3, score=0.25),
    prompt(0, 2, role="region", polygon=[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], box_xyxy=None),
    prompt(2, 0, point_coords=[[5.0, 6.0]], point_labels=[1], mask_input=bytes(range(256))),
    prompt(2, 1, error="bbox must be 4 numbers, has 3", box_xyxy=None),
)


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def test_what_is_frozen_comes_back_by_image_and_in_order(output):
    assert read_prompts_header(output, {}) is None
    header = write_prompts(output, PROMPTS, SOURCE, 4, {})
    assert header == read_prompts_header(output, {})
    assert (header.num_images, header.num_prompts, header.num_regions) == (4, 3, 1)
    assert (header.max_prompts, header.max_masks) == (2, 1)
    assert header.source == SOURCE
    rows = PROMPTS.to_pylist()
    found = read_image_prompts(output, range(0, 4), {})
    assert found == {
        image_id: [
            {name: value for name, value in row.items() if name != "image_id"}
            for row in rows
            if row["image_id"] == image_id
        ]
        for image_id in (0, 2)
    }
    assert list(read_image_prompts(output, range(1, 3), {})) == [2]
    assert read_image_prompts(output, range(3, 4), {}) == {}
    assert count_prompts(output, 4, {}).tolist() == [1, 0, 2, 0]


def test_where_there_are_no_prompts_none_are_counted(output):
    assert count_prompts(output, 3, {}).tolist() == [0, 0, 0]


def test_the_hash_is_that_of_the_prompts_alone(output, tmp_path):
    first = write_prompts(output, PROMPTS, SOURCE, 4, {})
    again = write_prompts(str(tmp_path / "other"), pa.concat_tables([PROMPTS[:1], PROMPTS[1:]]), {"else": 1}, 9, {})
    assert first.sha256 == again.sha256
    other = write_prompts(str(tmp_path / "third"), PROMPTS[:3], SOURCE, 4, {})
    assert first.sha256 != other.sha256


def test_the_prompts_of_new_images_are_added_and_the_hash_stays(output):
    first = write_prompts(output, PROMPTS, SOURCE, 4, {})
    new = {**SOURCE, "prompts": "/q.json"}
    header = extend_prompts(output, table_of(*(prompt(5, index) for index in range(3))), new, 6, {})
    assert (header.sha256, header.source) == (first.sha256, new)
    assert (header.num_images, header.num_prompts, header.num_regions, header.max_prompts) == (6, 6, 1, 3)
    found = read_image_prompts(output, range(6), {})
    assert {image_id: len(rows) for image_id, rows in found.items()} == {0: 2, 2: 2, 5: 3}
    nothing = extend_prompts(output, table_of(), new, 8, {})
    assert (nothing.num_images, nothing.num_prompts, nothing.max_masks) == (8, 6, 1)
    with pytest.raises(FencedError, match="another run added prompts"):
        extend_prompts(output, table_of(), new, 7, {})


def test_of_two_that_freeze_prompts_one_stops(output):
    write_prompts(output, PROMPTS, SOURCE, 4, {})
    with pytest.raises(FencedError, match="another run froze prompts"):
        write_prompts(output, PROMPTS, SOURCE, 4, {})
    with pytest.raises(FencedError, match="another run added prompts"):
        extend_prompts(output, table_of(prompt(3, 0)), SOURCE, 4, {})
    assert count_prompts(output, 4, {}).tolist() == [1, 0, 2, 0]


def test_one_that_was_interrupted_before_its_commit_is_done_again(output, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(FencedTable, "commit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_prompts(output, PROMPTS, SOURCE, 4, {})
    assert read_prompts_header(output, {}) is None
    assert announced_generation(output, {}) == 1
    corrected = write_prompts(output, PROMPTS[:1], SOURCE, 4, {})
    assert read_prompts_header(output, {}) == corrected
    assert count_prompts(output, 4, {}).sum() == 1


def test_prompts_can_be_announced_before_there_are_any(output):
    assert announced_generation(output, {}) is None
    announce_prompts(output, {})
    announce_prompts(output, {})
    assert announced_generation(output, {}) == 1
    assert read_prompts_header(output, {}) is None
    write_prompts(output, PROMPTS, SOURCE, 4, {})
    announce_prompts(output, {})
    assert read_prompts_header(output, {}).num_prompts == 3
    assert announced_generation(output, {}) is None


def test_prompts_of_a_plan_that_was_made_anew_take_the_place_of_those_before(output):
    first = write_prompts(output, PROMPTS, SOURCE, 4, {})
    announce_prompts(output, {}, generation=2)
    assert announced_generation(output, {}) == 2
    assert read_prompts_header(output, {}) == first, "until the new plan is there the old one has its prompts"
    assert read_prompts_header(output, {}, 2) is None
    with pytest.raises(FencedError, match="another run froze prompts"):
        write_prompts(output, PROMPTS, SOURCE, 4, {}, generation=1)
    second = write_prompts(output, PROMPTS[:1], SOURCE, 7, {}, generation=2)
    assert (second.generation, second.num_images, second.num_prompts) == (2, 7, 1)
    assert read_prompts_header(output, {}, 2) == second
    assert read_prompts_header(output, {}) is None
    assert announced_generation(output, {}) is None
    assert count_prompts(output, 7, {}).tolist() == [1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(FencedError, match="another run added prompts"):
        extend_prompts(output, table_of(prompt(8, 0)), SOURCE, 9, {}, generation=1)
    assert extend_prompts(output, table_of(prompt(8, 0)), SOURCE, 9, {}, generation=2).num_prompts == 2


def test_prompts_are_discarded_where_the_plan_that_was_made_anew_has_none(output):
    discard_prompts(output, {}, generation=2)
    assert announced_generation(output, {}) is None
    write_prompts(output, PROMPTS, SOURCE, 4, {})
    discard_prompts(output, {}, generation=1)
    assert count_prompts(output, 4, {}).sum() == 3, "those of its own stay"
    announce_prompts(output, {}, generation=2)
    discard_prompts(output, {}, generation=2)
    assert count_prompts(output, 4, {}).sum() == 0
    assert announced_generation(output, {}) is None
    assert read_prompts_header(output, {}) is None
    with pytest.raises(FencedError, match="another run discarded what was announced"):
        write_prompts(output, PROMPTS, SOURCE, 4, {}, generation=3)
    announce_prompts(output, {}, generation=3)
    assert write_prompts(output, PROMPTS, SOURCE, 4, {}, generation=3).num_prompts == 3


def test_only_the_images_asked_for_are_read(output):
    write_prompts(output, PROMPTS, SOURCE, 4, {})
    assert list(read_image_prompts(output, [0, 3], {})) == [0]
    assert list(read_image_prompts(output, np.array([1, 2]), {})) == [2]
    assert read_image_prompts(output, [], {}) == {}


def test_prompts_of_an_image_are_never_divided_between_files(output, monkeypatch):
    monkeypatch.setattr(prompt_table, "_ROWS_PER_FILE", 4)
    ids = np.repeat([0, 1, 2, 3], [3, 3, 9, 1])
    write_prompts(
        output, table_of(*(prompt(int(image_id), index) for index, image_id in enumerate(ids))), SOURCE, 4, {}
    )
    assert len(open_table(f"{output}/prompts", {}).file_uris()) == 3
    found = read_image_prompts(output, range(0, 4), {})
    ids_by_image = {image_id: [row["prompt_id"] for row in rows] for image_id, rows in found.items()}
    assert ids_by_image == {0: [0, 1, 2], 1: [3, 4, 5], 2: list(range(6, 15)), 3: [15]}
