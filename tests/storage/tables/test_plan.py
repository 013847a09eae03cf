import json
from dataclasses import asdict, replace

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.inputs.source_object import Location, SourceObject, source_table
from sam_pipeline.storage.tables import plan as plan_table
from sam_pipeline.storage.tables.fenced_table import FencedTable
from sam_pipeline.storage.tables.plan import (
    Plan,
    check_plan,
    confirm_plan,
    extend_plan,
    iterate_planned,
    read_plan,
    read_planned,
    take_plan_epoch,
    write_plan,
)
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA

IMAGES = [SourceObject(f"s3://b/{index:02}.jpg", index * 10, None if index % 2 else f"e{index}") for index in range(10)]


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def rows_of(images, start=0):
    return [{"image_id": start + index, **asdict(image)} for index, image in enumerate(images)]


def test_where_nothing_was_planned_there_is_no_plan(output):
    assert read_plan(output, {}) is None


@pytest.mark.parametrize("rows_per_file", [3, 1_000_000])
def test_a_plan_comes_back_as_it_was_written(output, rows_per_file, monkeypatch):
    monkeypatch.setattr(plan_table, "_ROWS_PER_FILE", rows_per_file)
    expected = Plan(output, "s3://b", 10)
    assert write_plan(output, "s3://b", source_table(IMAGES), {}) == expected
    assert read_plan(output, {}) == expected
    assert len(DeltaTable(f"{output}/images").file_uris()) == -(-10 // rows_per_file)
    planned = read_planned(output, range(0, 10), {})
    assert planned.schema == IMAGES_SCHEMA
    assert planned.to_pylist() == rows_of(IMAGES)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (2, 4), (5, 9), (9, 10), (8, 99), (4, 4)])
def test_a_range_of_ids_is_read_in_order_across_files(output, start, stop, monkeypatch):
    monkeypatch.setattr(plan_table, "_ROWS_PER_FILE", 3)
    write_plan(output, "s3://b", source_table(IMAGES), {})
    assert read_planned(output, range(start, stop), {}).to_pylist() == rows_of(IMAGES[start:stop], start)


def test_planning_that_was_killed_before_its_commit_left_no_plan_and_starts_over(output, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FencedTable, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            write_plan(output, "s3://b", source_table(IMAGES), {})
    assert read_plan(output, {}) is None
    write_plan(output, "s3://b", source_table(IMAGES[:4]), {})
    assert read_plan(output, {}) == Plan(output, "s3://b", 4)
    assert read_planned(output, range(0, 10), {}).to_pylist() == rows_of(IMAGES[:4])


def test_planning_that_was_begun_for_another_input_left_nothing_of_it(output, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(FencedTable, "put", None)
        with pytest.raises(TypeError):
            write_plan(output, "s3://b", source_table(IMAGES), {})
    assert write_plan(output, "s3://c", source_table(IMAGES), {}) == Plan(output, "s3://c", 10) == read_plan(output, {})


def test_of_two_planners_at_once_one_is_fenced_and_the_plan_is_the_others(output, monkeypatch):
    put = FencedTable.put

    def put_while_another_plans(*arguments, **options):
        monkeypatch.setattr(FencedTable, "put", put)
        write_plan(output, "s3://b", source_table(IMAGES[:4]), {})
        return put(*arguments, **options)

    monkeypatch.setattr(FencedTable, "put", put_while_another_plans)
    with pytest.raises(FencedError, match="another run took over"):
        write_plan(output, "s3://b", source_table(IMAGES), {})
    assert read_plan(output, {}) == Plan(output, "s3://b", 4)
    assert read_planned(output, range(0, 10), {}).to_pylist() == rows_of(IMAGES[:4])


def test_who_looked_before_another_planned_and_opened_the_table_after_is_fenced(output):
    assert read_plan(output, {}) is None
    write_plan(output, "s3://b", source_table(IMAGES[:4]), {})
    with pytest.raises(FencedError, match="another run made a plan"):
        write_plan(output, "s3://b", source_table(IMAGES), {})
    assert read_plan(output, {}) == Plan(output, "s3://b", 4)


def test_a_plan_whose_answer_was_lost_is_there_once(output, monkeypatch, clock):
    write = DeltaTable.create_write_transaction

    def write_and_fail(*arguments, **options):
        monkeypatch.setattr(DeltaTable, "create_write_transaction", write)
        write(*arguments, **options)
        raise OSError("Generic S3 error: HTTP error: error sending request")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", write_and_fail)
    assert write_plan(output, "s3://b", source_table(IMAGES), {}) == Plan(output, "s3://b", 10)
    assert read_plan(output, {}) == Plan(output, "s3://b", 10)


def test_a_plan_that_disappeared_under_a_worker_is_an_output_error(output):
    with pytest.raises(OutputError, match="the table disappeared"):
        read_planned(output, range(0, 1), {})


@pytest.mark.parametrize("place", ["{file}/run", "/proc/nowhere/run", "/sys/run"])
def test_an_output_that_cannot_be_written_is_an_output_error_in_one_line(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        write_plan(place.format(file=tmp_path / "file"), "s3://b", IMAGES, {})
    assert str(caught.value).startswith("cannot use output ")
    assert "\n" not in str(caught.value)


def test_a_delta_table_of_another_program_is_not_taken_for_a_plan(output):
    DeltaTable.create(f"{output}/images", IMAGES_SCHEMA)
    for use in (lambda: read_plan(output, {}), lambda: write_plan(output, "s3://b", source_table(IMAGES), {})):
        with pytest.raises(OutputError, match="a Delta table of another program"):
            use()


NEW = [SourceObject("s3://b/new.tar#a.jpg", 5, "t", Location("s3://b/new.tar", "range", 512, 5), None, '{"a": 1}')]


def corrected(image_id, image):
    column = pa.array([image_id])
    return source_table([image]).add_column(0, IMAGES_SCHEMA.field("image_id"), column)


NONE_CHANGED = corrected(0, IMAGES[0]).slice(0, 0)


@pytest.mark.parametrize("rows_per_file", [3, 1_000_000])
def test_a_plan_is_extended_and_corrected_in_one_transaction(output, rows_per_file, monkeypatch):
    monkeypatch.setattr(plan_table, "_ROWS_PER_FILE", rows_per_file)
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    version = DeltaTable(f"{output}/images").version()
    changed = replace(IMAGES[4], size_bytes=7, etag="other")
    extended = extend_plan(plan, source_table(NEW), corrected(4, changed), {})
    assert extended == Plan(output, "s3://b", 11) == read_plan(output, {})
    assert DeltaTable(f"{output}/images").version() == version + 2  # the epoch, and all files
    assert read_planned(output, range(0, 99), {}).to_pylist() == rows_of([*IMAGES[:4], changed, *IMAGES[5:], *NEW])
    again = extend_plan(extended, source_table(NEW).slice(0, 0), NONE_CHANGED, {})
    assert (again, DeltaTable(f"{output}/images").version()) == (extended, version + 2)


def test_of_two_that_extend_a_plan_the_later_finds_it_changed_and_adds_nothing(output):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    extend_plan(plan, source_table(NEW), NONE_CHANGED, {})
    with pytest.raises(FencedError, match="changed the plan"):
        extend_plan(plan, source_table(NEW), NONE_CHANGED, {})
    assert read_plan(output, {}).num_images == 11


def test_one_that_extends_a_plan_meanwhile_fences_the_other(output, monkeypatch):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    real = FencedTable.put

    def overtaken(*arguments, **options):
        monkeypatch.setattr(FencedTable, "put", real)
        extend_plan(plan, source_table(NEW), NONE_CHANGED, {})
        return real(*arguments, **options)

    monkeypatch.setattr(FencedTable, "put", overtaken)
    with pytest.raises(FencedError):
        extend_plan(plan, source_table(NEW), NONE_CHANGED, {})
    assert read_plan(output, {}).num_images == 11


def test_a_plan_that_was_read_before_it_was_extended_stays_as_it_was_read(output):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    extend_plan(plan, source_table(NEW), NONE_CHANGED, {})
    planned = pa.concat_tables(iterate_planned(plan, ["image_id", "uri"], {}))
    assert planned["image_id"].to_pylist() == list(range(10))
    assert pa.concat_tables(iterate_planned(read_plan(output, {}), ["image_id"], {})).num_rows == 11


@pytest.mark.parametrize("num_images", [1, 10, 40])
def test_a_plan_is_made_anew_in_one_transaction(output, num_images):
    first = write_plan(output, "s3://b", source_table(IMAGES), {})
    first = extend_plan(first, source_table(NEW), NONE_CHANGED, {})
    version = DeltaTable(f"{output}/images").version()
    images = [replace(IMAGES[0], uri=f"s3://c/{index:02}.jpg") for index in range(num_images)]
    made = write_plan(output, "s3://c", source_table(images), {}, replaced=first)
    assert made == Plan(output, "s3://c", num_images, generation=2) == read_plan(output, {})
    assert DeltaTable(f"{output}/images").version() == version + 2 == made.version  # its epoch, and the plan
    assert read_planned(output, range(99), {}).to_pylist() == rows_of(images)
    extended = extend_plan(made, source_table(NEW), NONE_CHANGED, {})
    assert extended == Plan(output, "s3://c", num_images + 1, generation=2) == read_plan(output, {})


def test_epochs_say_again_what_the_plan_is_of(output):
    # delta-rs deletes old entries of the log.
    first = write_plan(output, "s3://b", source_table(IMAGES), {})
    write_plan(output, "s3://c", source_table(IMAGES), {}, replaced=first)
    take_plan_epoch(FencedTable.open(output, "images", {}))
    (newest,) = DeltaTable(f"{output}/images").history(1)
    assert json.loads(newest["plan"]) == {"input": "s3://c", "generation": 2}


def test_a_plan_that_was_made_anew_is_not_gone_on_with(output):
    read = write_plan(output, "s3://b", source_table(IMAGES), {})
    check_plan(read, {})
    write_plan(output, "s3://c", source_table(IMAGES), {}, replaced=read)
    with pytest.raises(FencedError, match=r"another run made the plan in .* anew"):
        check_plan(read, {})


def test_a_plan_that_a_run_has_confirmed_since_it_was_read_is_not_replaced(output):
    write_plan(output, "s3://b", source_table(IMAGES), {})
    before = read_plan(output, {})
    confirm_plan(read_plan(output, {}), {})
    with pytest.raises(FencedError, match="or has begun with it"):
        write_plan(output, "s3://c", source_table(IMAGES), {}, replaced=before)
    assert read_plan(output, {}) == before
    confirm_plan(before, {})
    again = write_plan(output, "s3://c", source_table(IMAGES[:3]), {}, replaced=read_plan(output, {}))
    assert again.generation == 2


def test_a_plan_that_is_replaced_while_it_is_read_is_the_one_or_the_other(output, monkeypatch):
    write_plan(output, "s3://b", source_table(IMAGES), {})
    real = FencedTable.committed_metadata

    def replaced_meanwhile(table, name):
        monkeypatch.setattr(FencedTable, "committed_metadata", real)
        write_plan(output, "s3://c", source_table(IMAGES[:3]), {}, replaced=read_plan(output, {}))
        return real(table, name)

    monkeypatch.setattr(FencedTable, "committed_metadata", replaced_meanwhile)
    plan = read_plan(output, {})
    assert (plan.input, plan.generation, plan.num_images) == ("s3://b", 1, len(IMAGES))
    with pytest.raises(FencedError):
        confirm_plan(plan, {})


def test_a_run_that_confirms_while_the_plan_is_replaced_wins(output, monkeypatch):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    real = FencedTable.put

    def overtaken(*arguments, **options):
        confirm_plan(plan, {})
        return real(*arguments, **options)

    monkeypatch.setattr(FencedTable, "put", overtaken)
    with pytest.raises(FencedError, match="another run took over"):
        write_plan(output, "s3://c", source_table(IMAGES), {}, replaced=plan)
    assert read_plan(output, {}) == plan


def test_of_two_runs_that_confirm_a_plan_at_once_none_stops(output, monkeypatch):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    real = FencedTable.commit

    def overtaken(*arguments, **options):
        monkeypatch.setattr(FencedTable, "commit", real)
        confirm_plan(plan, {})
        return real(*arguments, **options)

    monkeypatch.setattr(FencedTable, "commit", overtaken)
    version = DeltaTable(f"{output}/images").version()
    confirm_plan(plan, {})
    assert DeltaTable(f"{output}/images").version() == version + 2


def test_of_a_plan_that_was_replaced_nothing_is_confirmed_nor_extended(output):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    made = write_plan(output, "s3://c", source_table(IMAGES), {}, replaced=plan)
    for use in (
        lambda: confirm_plan(plan, {}),
        lambda: extend_plan(plan, source_table(NEW), NONE_CHANGED, {}),
    ):
        with pytest.raises(FencedError, match=r"another run made the plan in .* anew"):
            use()
    with pytest.raises(FencedError, match="another run changed the plan"):
        write_plan(output, "s3://d", source_table(IMAGES), {}, replaced=plan)
    assert read_plan(output, {}) == made


def test_how_an_input_was_listed_is_kept_with_its_plan_until_it_is_listed_otherwise(output):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {}, listing={"exclude": ["a"]})
    assert plan.listing == read_plan(output, {}).listing == {"exclude": ["a"]}
    confirm_plan(plan, {})
    take_plan_epoch(FencedTable.open(output, "images", {}))
    extended = extend_plan(read_plan(output, {}), source_table(NEW), NONE_CHANGED, {})
    assert extended.listing == read_plan(output, {}).listing == {"exclude": ["a"]}
    other = {"exclude": ["b"], "allow_http": True}
    again = extend_plan(extended, source_table(NEW).slice(0, 0), NONE_CHANGED, {}, listing=other)
    assert again.listing == read_plan(output, {}).listing == other
    version = DeltaTable(f"{output}/images").version()
    extend_plan(again, source_table(NEW).slice(0, 0), NONE_CHANGED, {}, listing=other)
    assert DeltaTable(f"{output}/images").version() == version, "nothing is new"
    made = write_plan(output, "s3://c", source_table(IMAGES), {}, replaced=read_plan(output, {}), listing={})
    assert made.listing == read_plan(output, {}).listing == {}


def test_a_plan_of_a_version_that_did_not_keep_its_listing_has_none(output):
    plan = write_plan(output, "s3://b", source_table(IMAGES), {})
    assert plan.listing is read_plan(output, {}).listing is None
    assert extend_plan(plan, source_table(NEW), NONE_CHANGED, {}, listing={"keep": ["x"]}).listing == {"keep": ["x"]}
    assert read_plan(output, {}).listing == {"keep": ["x"]}
