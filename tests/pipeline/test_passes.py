from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from sam_pipeline.config import AnnotateConfig, MaskConfig
from sam_pipeline.errors import FencedError, InputError, OutputError, RunFailedError, StorageUnavailableError
from sam_pipeline.pipeline import passes
from sam_pipeline.pipeline.machines.machine_changes import MachinesChangedError
from sam_pipeline.pipeline.monitor import Counts, MonitorState
from sam_pipeline.pipeline.passes import annotate_pending
from sam_pipeline.storage.tables.delta import DataFile
from sam_pipeline.storage.tables.results import Shard
from tests.pipeline.jobs import job_of

# Ray Data warns of its own defaults whenever a context is copied.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


class Table:
    """Committed ids, without storage."""

    def __init__(self, num_images):
        self.done = np.zeros(num_images, bool)
        self.commits, self.looks = [], 0
        self.error = None

    def commit(self, shards):
        if self.error is not None:
            raise self.error
        self.commits.append([shard.file.path for shard in shards])
        for shard in shards:
            assert not self.done[shard.image_ids].any(), "an image was committed twice"
            self.done[shard.image_ids] = True

    def check_fence(self):
        self.looks += 1


class Display:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, counts, num_committed):
        self.shown = num_committed


def shard(first, last=None):
    last = first if last is None else last
    ids = np.arange(first, last + 1)
    return Shard(DataFile(f"part-{first}", 1, len(ids), first, last), ids, Counter(ok=len(ids)), 0)


@pytest.fixture
def graph(monkeypatch):
    """What passes do, instead of Ray: `graph.steps` takes the pending ids of a pass and yields shards."""
    made = SimpleNamespace(passes=[], isolated=[], state=MonitorState(Counts()), steps=None)

    def dataset(pending_ids, chunk_rows, *_):
        made.passes.append((pending_ids.tolist(), chunk_rows))
        return pending_ids

    def isolated(image_ids, *_):
        made.isolated += image_ids
        yield from ([shard(image_id)] for image_id in image_ids)

    monkeypatch.setattr(passes, "shard_dataset", dataset)
    monkeypatch.setattr(passes, "iterate_shards", lambda pending_ids, _: made.steps(pending_ids.tolist()))
    monkeypatch.setattr(passes, "annotate_isolated", isolated)
    monkeypatch.setattr(passes, "start_monitor", lambda: None)
    monkeypatch.setattr(passes, "read_monitor", lambda _: made.state)
    return made


ONE_AT_ONCE = SimpleNamespace(encode_actors=1, decode_actors=1, encode_batch_size=1, shares_gpus=False)


def annotate(table, config=None, resources=ONE_AT_ONCE, **job):
    pending = np.flatnonzero(~table.done)
    annotate_pending(table, pending, job_of(config, **job), resources, len(table.done), lambda *_: Display())


def test_one_pass_that_does_everything_is_all(graph):
    graph.steps = lambda ids: ([shard(image_id)] for image_id in ids)
    table = Table(1000)
    annotate(table)
    assert table.done.all()
    assert [(len(ids), chunk_rows) for ids, chunk_rows in graph.passes] == [(1000, 16)]
    assert graph.isolated == []


def test_more_tasks_than_ray_data_can_begin_are_several_passes_and_what_they_leave_comes_last(graph, monkeypatch):
    monkeypatch.setattr(passes, "_MAX_TASKS", 30)
    left_once = {5, 500, *range(900, 970)}

    def steps(ids):
        yield from ([shard(image_id)] for image_id in ids if image_id not in left_once)
        left_once.difference_update(ids)

    graph.steps = steps
    table = Table(1000)
    annotate(table)
    assert table.done.all()
    firsts = [(ids[0], ids[-1], chunk_rows) for ids, chunk_rows in graph.passes]
    assert firsts == [(0, 479, 16), (480, 959, 16), (960, 999, 16), (5, 969, 3)]
    assert graph.isolated == []


@pytest.mark.parametrize(
    ("num_images", "encode_actors", "batch_size", "crop_n_layers", "chunk_rows"),
    [
        (100_000, 1, 16, 0, 256),
        (100_000, 1, 24, 0, 240),
        (2000, 1, 16, 0, 32),
        (100, 1, 16, 0, 16),
        (100, 8, 16, 0, 6),
        (3, 8, 16, 0, 1),
        (100, 1, 16, 1, 3),
        (100_000, 1, 16, 2, 256),
    ],
)
def test_a_reading_task_makes_whole_blocks_unless_encoders_would_wait_for_it(
    graph, num_images, encode_actors, batch_size, crop_n_layers, chunk_rows
):
    graph.steps = lambda ids: ([shard(image_id)] for image_id in ids)
    config = AnnotateConfig(output="run", masks=MaskConfig(crop_n_layers=crop_n_layers))
    resources = SimpleNamespace(**vars(ONE_AT_ONCE) | {"encode_actors": encode_actors, "encode_batch_size": batch_size})
    annotate(Table(num_images), config, resources)
    assert [chunk_rows for _, chunk_rows in graph.passes] == [chunk_rows]


@pytest.mark.parametrize(("max_masks", "chunk_rows"), [(0, 16), (10, 16), (100, 10), (5000, 1)])
def test_a_reading_task_holds_few_prompts_that_are_masks(graph, max_masks, chunk_rows):
    graph.steps = lambda ids: ([shard(image_id)] for image_id in ids)
    annotate(Table(1000), max_masks=max_masks)
    assert [chunk_rows for _, chunk_rows in graph.passes] == [chunk_rows]


def test_what_was_committed_before_is_neither_done_nor_waited_for_nor_committed_again(graph):
    graph.steps = lambda ids: ([shard(image_id)] for image_id in [3, *ids])  # 3 is one that has a row
    table = Table(20)
    table.done[:8] = True
    annotate(table)
    assert table.done.all()
    assert graph.passes == [(list(range(8, 20)), 1)]
    assert not any("part-3" in commit for commit in table.commits)


def test_a_few_that_a_pass_left_are_done_alone(graph):
    graph.steps = lambda ids: ([shard(image_id)] for image_id in ids if image_id % 10)
    table = Table(100)
    annotate(table)
    assert table.done.all()
    assert graph.isolated == list(range(0, 100, 10))


def test_many_that_a_pass_left_go_through_another_with_one_image_a_task(graph):
    graph.steps = lambda ids: ([shard(image_id)] for image_id in ids[: len(ids) // 2])
    table = Table(1000)
    annotate(table)
    assert [(len(ids), chunk_rows) for ids, chunk_rows in graph.passes] == [
        (1000, 16), (500, 1), (250, 1), (125, 1)
    ]  # fmt: skip
    assert len(graph.isolated) == 63


def test_where_passes_do_nothing_images_are_done_alone_a_few_at_a_time(graph, caplog):
    graph.steps = lambda ids: (shards for shards in ([],))
    graph.state = MonitorState(Counts(), last_error="ValueError: odd")
    table = Table(100)
    with caplog.at_level("INFO"):
        annotate(table)
    assert graph.isolated == list(range(100))
    assert [(len(ids), chunk_rows) for ids, chunk_rows in graph.passes] == [(100, 2), (36, 1)]
    assert "64 images are tried alone; the last error was ValueError: odd" in caplog.text


def test_a_shard_that_holds_an_image_for_the_second_time_is_not_committed_and_its_others_are_done_again(graph):
    def steps(ids):
        yield [shard(0, 4), shard(4, 9)]
        yield [Shard(DataFile("part-x", 1, 2, 10, 10), np.array([10, 10]), Counter(ok=2), 0)]

    graph.steps = steps
    table = Table(11)
    annotate(table)
    assert table.done.all()
    assert graph.isolated == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("failure", [InputError("x"), OutputError("x"), StorageUnavailableError("x")])
def test_what_a_worker_said_of_the_run_stops_it_and_what_was_written_is_committed(graph, failure):
    def steps(ids):
        yield [shard(0)]
        yield [shard(1)]
        graph.state = MonitorState(Counts(), failure=failure)
        yield []
        raise AssertionError("it went on")

    graph.steps = steps
    table = Table(100)
    with pytest.raises(type(failure)):
        annotate(table)
    assert table.commits == [["part-0"], ["part-1"]]


@pytest.mark.parametrize("error", [FencedError("x"), OutputError("x"), StorageUnavailableError("x")])
def test_a_commit_that_failed_is_not_tried_again(graph, error):
    graph.steps = lambda ids: ([shard(image_id)] for image_id in ids)
    table = Table(10)
    table.error = error
    commits = []
    table.commit = lambda shards: commits.append(shards) or (_ for _ in ()).throw(error)
    with pytest.raises(type(error)):
        annotate(table)
    assert len(commits) == 1


def test_while_nothing_is_written_the_fence_is_looked_at_soon_and_then_every_ten_seconds(graph, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(passes.time, "monotonic", lambda: clock.now)

    def steps(ids):
        for _ in range(60):
            clock.now += 1
            yield []
        yield [shard(0, 9)]

    graph.steps = steps
    table = Table(10)
    annotate(table)
    assert table.looks == len([1, 3, 7, 15, 25, 35, 45, 55])
    assert table.done.all()


def test_where_the_monitor_does_not_answer_the_cluster_is_looked_at(graph, monkeypatch):
    def lost():
        raise RunFailedError("another cluster")

    monkeypatch.setattr(passes, "check_cluster", lost)
    graph.steps = lambda ids: ([shard(image_id)] for image_id in ids)
    graph.state = None
    table = Table(20)
    with pytest.raises(RunFailedError, match="another cluster"):
        annotate(table)
    assert table.done.tolist() == [True] + [False] * 19  # what was written is committed


def test_where_machines_change_an_error_of_the_last_commit_ends_the_run(graph):
    """Its images are neither committed nor pending: a run that went on would leave them out."""

    def steps(ids):
        if graph.passes[1:]:  # where the first one was taken for done
            table.error = None
            yield from ([shard(image_id)] for image_id in ids)
            return
        yield [shard(0)]
        table.error = StorageUnavailableError("no answer")
        yield [shard(1)]  # waits for the next commit
        raise MachinesChangedError("machines joined", ONE_AT_ONCE)

    graph.steps, table = steps, Table(3)
    with pytest.raises(StorageUnavailableError):
        annotate(table, AnnotateConfig(output="run", commit_interval_s=1000))


def test_a_signal_commits_what_is_ready_and_waits_for_nothing_else(graph, monkeypatch):
    class Interrupted(Display):
        def update(self, counts, num_committed):
            monkeypatch.setattr(passes, "is_stopping", lambda: True)
            raise KeyboardInterrupt

    def steps(ids):
        yield from ([shard(0)], [shard(1)], [shard(2)], [])
        raise AssertionError("it waited for more")

    graph.steps = steps
    table = Table(10)
    with pytest.raises(KeyboardInterrupt):
        annotate_pending(table, np.arange(10), job_of(), ONE_AT_ONCE, 10, lambda *_: Interrupted())
    assert table.commits == [["part-0"], ["part-1", "part-2"]]


def test_ray_frees_the_share_of_a_killed_driver_after_seconds():
    from ray.data._internal.cluster_autoscaler import DefaultClusterAutoscalerV2, RateBasedClusterAutoscaler

    for autoscaler in (DefaultClusterAutoscalerV2, RateBasedClusterAutoscaler):
        assert autoscaler.AUTOSCALING_REQUEST_EXPIRE_TIME_S == 25, "Ray no longer reads what pipeline/__init__.py sets"
