import threading
from collections import Counter
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sam_pipeline.storage import fetching
from sam_pipeline.storage.fetching import fetch


class FlakyStore(MemoryFileSystem):
    """A store whose objects fail a given number of times before they can be read."""

    protocol = "flaky"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    failures: ClassVar = {}
    calls: ClassVar = Counter()
    lock = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("flaky://").strip("/")

    def cat_file(self, path, start=None, end=None, **options):
        with self.lock:
            self.calls[path] += 1
            if self.calls[path] <= self.failures.get(path, (0, None))[0]:
                raise self.failures[path][1]
        return super().cat_file(path, start, end)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that retries asked to sleep, without sleeping."""
    slept = []

    class Clock:
        sleep = staticmethod(slept.append)

    monkeypatch.setattr(fetching.tenacity.nap, "time", Clock)
    return slept


@pytest.fixture
def flaky(waits):
    fsspec.register_implementation("flaky", FlakyStore, clobber=True)
    FlakyStore.calls.clear()
    FlakyStore.failures.clear()
    FlakyStore.store.clear()
    store = FlakyStore()
    for name in "abc":
        store.pipe_file(f"/{name}", name.encode())
    return FlakyStore


def test_nothing_is_asked_for_nothing():
    assert fetch([], {}) == []


def test_bytes_come_in_the_order_of_the_uris(tmp_path):
    uris = []
    for name in ("b", "a", "d", "c"):
        (tmp_path / name).write_bytes(name.encode())
        uris.append(f"file://{tmp_path}/{name}")
    assert fetch(uris, {}) == [b"b", b"a", b"d", b"c"]


def test_a_missing_file_is_an_answer_and_the_others_come(tmp_path, waits):
    (tmp_path / "a").write_bytes(b"a")
    first, second, third = fetch([f"file://{tmp_path}/none", f"file://{tmp_path}/a", f"file://{tmp_path}/none2"], {})
    assert isinstance(first, FileNotFoundError)
    assert second == b"a"
    assert isinstance(third, FileNotFoundError)
    assert waits == []


def test_a_single_missing_file_with_a_glob_character_is_an_answer(tmp_path, waits):
    (answer,) = fetch([f"file://{tmp_path}/none[1]*.jpg"], {})
    assert isinstance(answer, FileNotFoundError)


def test_a_uri_asked_for_twice_is_fetched_once_and_given_twice(flaky):
    assert fetch(["flaky://a", "flaky://b", "flaky://a"], {}) == [b"a", b"b", b"a"]
    assert flaky.calls == {"/a": 1, "/b": 1}


def test_two_spellings_of_one_path_are_both_answered(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    assert fetch([f"file://{tmp_path}/a", f"{tmp_path}/a"], {}) == [b"a", b"a"]


def test_an_empty_object_is_no_failure(flaky, waits):
    flaky().pipe_file("/empty", b"")
    assert fetch(["flaky://empty"], {}) == [b""]
    assert waits == []


@pytest.mark.parametrize("error", [OSError("503 SlowDown"), ConnectionResetError(), TimeoutError(), ValueError("odd")])
def test_what_may_pass_is_tried_again_and_only_for_what_failed(flaky, waits, error):
    flaky.failures["/b"] = (2, error)
    assert fetch(["flaky://a", "flaky://b", "flaky://c"], {}) == [b"a", b"b", b"c"]
    assert flaky.calls == {"/a": 1, "/b": 3, "/c": 1}
    assert len(waits) == 2


def test_after_five_attempts_the_error_is_the_answer(flaky, waits):
    error = OSError("503 SlowDown")
    flaky.failures["/b"] = (99, error)
    assert fetch(["flaky://a", "flaky://b"], {}) == [b"a", error]
    assert flaky.calls["/b"] == 5
    assert len(waits) == 4
    assert all(wait <= 20 for wait in waits)


@pytest.mark.parametrize("error", [PermissionError("403"), FileNotFoundError("404"), IsADirectoryError("folder")])
def test_errors_that_will_not_pass_are_final(flaky, waits, error):
    flaky.failures["/a"] = (99, error)
    assert fetch(["flaky://a", "flaky://b"], {}) == [error, b"b"]
    assert flaky.calls["/a"] == 1
    assert waits == []
