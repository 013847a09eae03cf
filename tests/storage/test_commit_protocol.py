"""Several drivers on one output, stopped, killed and lied to between any two storage calls, by Hypothesis.

Each driver runs in a thread that waits before every storage call until the state machine lets it go on, kills it, or
makes the call fail, with its work undone or done. After every step the log is read, by code of the test's own.
"""

import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tenacity
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sam_pipeline.errors import FencedError, OutputError
from sam_pipeline.storage.maintenance import unused_files
from sam_pipeline.storage.maintenance.vacuum import vacuum
from sam_pipeline.storage.tables import delta, fenced_table, rewriting
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.reading import table_reading
from sam_pipeline.storage.tables.results import delete_rows
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA, TABLE_SCHEMAS
from tests.storage.runs import FINGERPRINT, failed_row, row, shard, take_over

NUM_IMAGES = 4
ROWS = [row(0, 0), failed_row(1), row(2, 0), failed_row(3)]
FAILED_IDS = {1, 3}

MAX_DRIVERS = 3

PLACES = st.sampled_from(
    ["open", "create_write_transaction", "update_incremental", "pipe_file", "vacuum", "rm_file", "the end"]
)
ORDERS = st.sampled_from(["go", "go", "kill before", "kill after", "fail", "lose the answer", "conflict with itself"])

TWO_HOURS_S = 7200


class KilledError(BaseException):
    """Ends a driver's thread, as SIGKILL ends its process."""


def transport_error():
    """An answer that never came, in the words of object_store."""
    return OSError("Generic S3 error: Error performing PUT http://h/k: HTTP error: error sending request")


def own_conflict():
    """delta-rs tried a commit again that had succeeded, and met itself."""
    return CommitFailedError("Failed to commit transaction: Concurrent transaction failed.")


def run(output):
    """What annotate does, two images to a shard and a shard to a commit."""
    table = take_over(output)
    pending = np.flatnonzero(~table.committed_ids(NUM_IMAGES))
    for start in range(0, len(pending), 2):
        table.commit([shard(output, [ROWS[image_id] for image_id in pending[start : start + 2]])])
    table.compact()


def finish(output):
    """The same in one commit, for speed."""
    table = take_over(output)
    pending = np.flatnonzero(~table.committed_ids(NUM_IMAGES))
    if len(pending):
        table.commit([shard(output, [ROWS[image_id] for image_id in pending])])


def retry(output):
    delete_rows(output, ["decode_error"], {})


def clean(output):
    vacuum(output, 1, {})


class Driver:
    """A job in a thread that stands before a storage call whenever it is not in `step`."""

    def __init__(self, job, output):
        self.job = job
        self.outcome = None
        self._orders, self._reports = SimpleQueue(), SimpleQueue()
        self._is_killed = False
        self._thread = threading.Thread(target=self._run, args=(output,), daemon=True)
        self._thread.start()
        self.next_call = self._reports.get()

    def _run(self, output):
        active.driver = self
        try:
            self.job(output)
            self.outcome = "done"
        except BaseException as error:  # noqa: BLE001  the state machine looks at it
            self.outcome = error
        self._reports.put(None)

    def call(self, name, function):
        """Called by the driver's thread in place of every storage call."""
        if self._is_killed:
            raise KilledError
        self._reports.put(name)
        order = self._orders.get()
        if order == "kill before":
            self._is_killed = True
            raise KilledError
        if order == "fail":
            raise transport_error()
        try:
            result = function()
        finally:
            if order == "kill after":
                self._is_killed = True
                raise KilledError
        if order == "lose the answer":
            raise transport_error()
        if order == "conflict with itself" and name == "create_write_transaction":
            raise own_conflict()
        return result

    def step(self, order="go"):
        self._orders.put(order)
        self.next_call = self._reports.get()
        if self.next_call is None:
            self._thread.join()

    @property
    def is_running(self):
        return self.next_call is not None


active = threading.local()


def stepped(name, function):
    driver = getattr(active, "driver", None)
    return function() if driver is None else driver.call(name, function)


class SteppedTable(Table):
    """A Delta table whose calls wait for their driver's turn."""

    def __init__(self, *arguments, **options):
        stepped("open", lambda: Table.__init__(self, *arguments, **options))


def _create(*arguments, **options):
    stepped("create", lambda: DeltaTable.create(*arguments, **options))


def _stepped_method(name):
    def method(self, *arguments, **options):
        return stepped(name, lambda: getattr(Table, name)(self, *arguments, **options))

    return method


for _name in ("create_write_transaction", "update_incremental", "vacuum"):
    setattr(SteppedTable, _name, _stepped_method(_name))


class SteppedFilesystem:
    """A local filesystem on which every file is two hours old, so that only the fence protects it from a vacuum."""

    protocol = ("file",)

    def makedirs(self, path, exist_ok):
        os.makedirs(path, exist_ok=exist_ok)

    def pipe_file(self, path, content):
        def put():
            Path(path).write_bytes(content)
            os.utime(path, (time.time() - TWO_HOURS_S,) * 2)

        stepped("pipe_file", put)

    def ls(self, path, detail, refresh):
        return os.listdir(path) if os.path.isdir(path) else []

    def rm_file(self, path):
        stepped("rm_file", lambda: os.remove(path))


class InlinePool:
    """ThreadPoolExecutor in the caller's thread, so that calls come one after another."""

    def __init__(self, max_workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def map(self, function, *iterables):
        return map(function, *iterables)

    def shutdown(self, *, cancel_futures, wait=True):
        pass


@pytest.fixture
def _stepped_storage(monkeypatch):
    for module in (delta, fenced_table):
        monkeypatch.setattr(module, "Table", SteppedTable)
    monkeypatch.setattr(delta, "DeltaTable", SimpleNamespace(create=_create))
    for module in (delta, fenced_table, unused_files):
        monkeypatch.setattr(module, "open_filesystem", lambda uri, options: (SteppedFilesystem(), uri))
    for module in (rewriting, table_reading, unused_files):
        monkeypatch.setattr(module, "ThreadPoolExecutor", InlinePool)
    # Masks are of no consequence here, and half the time.
    columns = [MASKS_SCHEMA.field(name) for name in ("image_id", "status", "num_masks")]
    monkeypatch.setitem(TABLE_SCHEMAS, "masks", pa.schema(columns))
    monkeypatch.setattr(fenced_table, "time", SimpleNamespace(time=lambda: time.time() - TWO_HOURS_S))
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda seconds: None))


class Log:
    """The committed state of a results table, from its JSON log and its files alone."""

    def __init__(self, output):
        self._folder = Path(output, "masks")
        self._next_version = 0
        self._ids_by_file = {}
        self._epochs = [0]
        self._driver_by_epoch = {}

    @property
    def ids(self):
        return sorted(itertools.chain.from_iterable(self._ids_by_file.values()))

    @property
    def num_entries(self):
        return self._next_version

    def has_epoch(self, driver):
        return driver in self._driver_by_epoch.values()

    def has_later_epoch(self, driver):
        return self._epochs[-1] > 0 and self._driver_by_epoch[self._epochs[-1]] is not driver

    def follow(self, driver):
        """Take in what a driver's last step wrote, if anything, and check it."""
        before = set(self.ids)
        while (entry := self._folder / "_delta_log" / f"{self._next_version:020}.json").exists():
            self._apply([json.loads(line) for line in entry.read_text().splitlines()], driver)
            self._next_version += 1
        after = self.ids
        assert len(after) == len(set(after)), f"images twice: {after}"
        lost = before - set(after)
        assert lost <= (FAILED_IDS if driver is not None and driver.job is retry else set()), f"images lost: {lost}"
        for name in self._ids_by_file:
            assert (self._folder / name).exists(), f"{name} is committed and gone"

    def _apply(self, actions, driver):
        for action in actions:
            if "remove" in action:
                del self._ids_by_file[action["remove"]["path"]]
            if "add" in action:
                path = action["add"]["path"]
                self._ids_by_file[path] = pq.ParquetFile(self._folder / path).read()["image_id"].to_pylist()
        epochs = [action["txn"]["version"] for action in actions if "txn" in action]
        if self._next_version == 0:
            return
        assert len(epochs) == 1, "a commit that no fence holds back"
        assert epochs[0] >= self._epochs[-1], f"a superseded driver committed: {self._epochs} {epochs}"
        assert self._driver_by_epoch.setdefault(epochs[0], driver) is driver, "two drivers have one epoch"
        self._epochs.append(epochs[0])


class Protocol(RuleBasedStateMachine):
    """Drivers that come and go; what they are told to do next is Hypothesis's choice."""

    @initialize(is_created=st.booleans())
    def begin(self, is_created):
        self.folder = tempfile.mkdtemp(prefix="protocol-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.log = Log(self.folder)
        self.drivers = []
        if is_created:
            delta.create_table(
                f"{self.folder}/masks", TABLE_SCHEMAS["masks"], {"fingerprint": json.dumps(FINGERPRINT)}, {}
            )

    @precondition(lambda self: len(self.running) < MAX_DRIVERS)
    @rule(job=st.sampled_from([run, run, retry, clean]), until=PLACES, order=ORDERS)
    def start(self, job, until, order):
        self.drivers.append(Driver(job, self.folder))
        self._go_on(self.drivers[-1], until, order)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, MAX_DRIVERS - 1), until=PLACES, order=ORDERS)
    def go_on(self, which, until, order):
        self._go_on(self.running[which % len(self.running)], until, order)

    def _go_on(self, driver, until, order):
        """A driver goes on to a call about which it is misled, or in which it is killed, or after which it waits."""
        while driver.is_running and driver.next_call != until:
            self._step(driver, "go")
        if driver.is_running:
            self._step(driver, order)

    @property
    def running(self):
        return [driver for driver in self.drivers if driver.is_running]

    def teardown(self):
        try:
            self._finish()
        finally:
            for driver in self.running:
                driver.step("kill before")
            shutil.rmtree(self.folder)

    def _finish(self):
        """One fresh driver finishes everything; of those that were in charge before, none commits any more."""
        superseded = [driver for driver in self.running if self.log.has_epoch(driver)]
        last = Driver(finish, self.folder)
        self.drivers.append(last)
        self._finish_driver(last)
        assert last.outcome == "done", repr(last.outcome)
        assert self.log.ids == list(range(NUM_IMAGES))
        num_entries = self.log.num_entries
        for driver in superseded:
            self._finish_driver(driver)
        assert self.log.num_entries == num_entries

    def _finish_driver(self, driver):
        while driver.is_running:
            self._step(driver, "go")

    def _step(self, driver, order):
        driver.step(order)
        self.log.follow(driver)
        if driver.is_running or driver.outcome == "done":
            return
        if isinstance(driver.outcome, FencedError):
            assert self.log.has_later_epoch(driver), "fenced by nobody"
        elif isinstance(driver.outcome, OutputError):
            # It read a file that was vacuumed since its snapshot, or there was no table yet to retry or to vacuum.
            assert any(other.job is clean for other in self.drivers) or driver.job is retry
        else:
            assert isinstance(driver.outcome, KilledError), repr(driver.outcome)


@pytest.mark.slow
@pytest.mark.usefixtures("_stepped_storage")
@pytest.mark.parametrize(  # two for two cores
    ("first", "num_examples"), [(1, 150), (2, 150), pytest.param(3, 3000, marks=pytest.mark.soak)]
)
def test_whatever_happens_between_two_calls_no_image_is_lost_or_doubled(first, num_examples):
    run_state_machine_as_test(
        # The same examples every time: a failure in CI is one that can be repeated, and no run takes longer.
        seed(first)(type("Protocol", (Protocol,), {})),
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=5,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
