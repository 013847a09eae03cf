import threading
from collections import Counter
from hashlib import md5
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sam_pipeline.errors import ConfigError, InputError, StorageUnavailableError
from sam_pipeline.safety import uri_rules
from sam_pipeline.storage.inputs import fetching
from sam_pipeline.storage.inputs.fetching import ChangedError, RefusedError, TooLargeToFetchError, fetch, find_probe
from sam_pipeline.storage.inputs.source_object import Location, SourceObject
from tests.storage.objects.test_retrying import of_s3fs

BUSY = of_s3fs("SlowDown", 503)
DENIED = of_s3fs("AccessDenied", 403)
EXPIRED = of_s3fs("ExpiredToken", 400)
BAD_RANGE = of_s3fs("InvalidRange", 416)
FOR_EVER = 10**9


class FlakyStore(MemoryFileSystem):
    """A store whose objects answer a given number of times with something else than what they are."""

    protocol = "flaky"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    instead: ClassVar = {}
    """Path → (number of times, error or bytes)."""
    calls: ClassVar = Counter()
    longest: ClassVar = Counter()
    """Path → most bytes given at once."""
    lock = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("flaky://").strip("/")

    def cat_file(self, path, start=None, end=None, **options):
        with self.lock:
            self.calls[path] += 1
            times, answer = self.instead.get(path, (0, None))
            if self.calls[path] <= times:
                if isinstance(answer, Exception):
                    raise answer
                return answer
        data = super().cat_file(path, start, end)
        self.longest[path] = max(self.longest[path], len(data))
        return data

    def info(self, path, **options):
        found = super().info(path, **options)
        return found | {"ETag": f'"{md5(self.store[path].getvalue()).hexdigest()}"'} if path in self.store else found


@pytest.fixture
def flaky(clock, monkeypatch):
    monkeypatch.setattr(uri_rules, "DATA_SCHEMES", (*uri_rules.DATA_SCHEMES, "flaky"))
    fsspec.register_implementation("flaky", FlakyStore, clobber=True)
    for state in (FlakyStore.calls, FlakyStore.instead, FlakyStore.store, FlakyStore.longest):
        state.clear()
    store = FlakyStore()
    for name in ("a", "b", "c", "probe"):
        store.pipe_file(f"/{name}", name.encode() * 10)
    return FlakyStore


def planned(*names, **changes):
    """Images of the flaky store as a listing sees them now."""
    images = []
    for name in names:
        data = FlakyStore.store[f"/{name}"].getvalue() if f"/{name}" in FlakyStore.store else b"1234567890"
        fields = {"uri": f"flaky://{name}", "size_bytes": len(data), "etag": md5(data).hexdigest()} | changes
        images.append(SourceObject(**fields))
    return images


def in_folder(folder, *names):
    return [SourceObject(f"file://{folder}/{name}", None, None) for name in names]


def fetch_flaky(*names):
    return fetch(planned(*names), {}, "flaky://probe")


A, B, C = (name * 10 for name in (b"a", b"b", b"c"))


def test_nothing_is_asked_for_nothing():
    assert fetch([], {}, None) == []


def test_bytes_come_in_the_order_of_the_images(tmp_path):
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode())
    assert fetch(in_folder(tmp_path, *"badc"), {}, None) == [b"b", b"a", b"d", b"c"]


def test_a_missing_file_is_an_answer_and_the_others_come(tmp_path, clock):
    (tmp_path / "a").write_bytes(b"a")
    first, second, third = fetch(in_folder(tmp_path, "none", "a", "none2"), {}, None)
    assert isinstance(first, FileNotFoundError)
    assert second == b"a"
    assert isinstance(third, FileNotFoundError)
    assert clock.slept == []


def test_a_single_missing_file_with_a_glob_character_is_an_answer(tmp_path):
    (answer,) = fetch(in_folder(tmp_path, "none[1]*.jpg"), {}, None)
    assert isinstance(answer, FileNotFoundError)


def test_an_image_asked_for_twice_is_fetched_once_and_given_twice(flaky):
    assert fetch_flaky("a", "b", "a") == [A, B, A]
    assert flaky.calls == {"/a": 1, "/b": 1}


def test_two_spellings_of_one_path_are_both_answered(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    images = [SourceObject(uri, 1, None) for uri in (f"file://{tmp_path}/a", f"{tmp_path}/a")]
    assert fetch(images, {}, None) == [b"a", b"a"]


def test_an_empty_object_is_no_failure(flaky, clock):
    flaky().pipe_file("/empty", b"")
    assert fetch_flaky("empty") == [b""]
    assert clock.slept == []


@pytest.mark.parametrize("error", [BUSY, ConnectionResetError(), TimeoutError()])
def test_what_may_pass_is_tried_again_and_only_for_what_failed(flaky, clock, error):
    flaky.instead["/b"] = (2, error)
    assert fetch_flaky("a", "b", "c") == [A, B, C]
    assert flaky.calls == {"/a": 1, "/b": 3, "/c": 1}
    assert len(clock.slept) == 2


@pytest.mark.parametrize("error", [BUSY, DENIED, EXPIRED, ValueError("odd")])
def test_an_error_that_only_this_image_has_is_its_answer(flaky, clock, error):
    flaky.instead["/b"] = (FOR_EVER, error)
    assert fetch_flaky("a", "b") == [A, error]
    assert flaky.calls["/a"] == 1
    assert flaky.calls["/probe"] == 2
    assert flaky.calls["/b"] == (12 if error is BUSY else 2)
    assert clock.now < 60


@pytest.mark.parametrize("error", [FileNotFoundError("404"), IsADirectoryError("folder")])
def test_what_is_gone_is_an_answer_at_once_and_without_a_probe(flaky, clock, error):
    flaky.instead["/a"] = (FOR_EVER, error)
    assert fetch_flaky("a", "b") == [error, B]
    assert flaky.calls == {"/a": 1, "/b": 1}
    assert clock.slept == []


def test_without_a_probe_an_error_that_is_left_is_the_answer(flaky):
    flaky.instead |= {"/a": (FOR_EVER, BUSY), "/b": (FOR_EVER, DENIED)}
    assert fetch(planned("a", "b"), {}, None) == [BUSY, DENIED]


def test_a_probe_that_was_deleted_is_as_good_as_one_that_can_be_read(flaky):
    flaky.instead |= {"/a": (FOR_EVER, DENIED), "/probe": (FOR_EVER, FileNotFoundError("gone"))}
    assert fetch_flaky("a") == [DENIED]


def test_a_probe_that_has_become_empty_is_as_good_too(flaky):
    flaky.instead |= {"/a": (FOR_EVER, DENIED), "/probe": (FOR_EVER, BAD_RANGE)}
    assert fetch_flaky("a") == [DENIED]


@pytest.mark.parametrize("error", [DENIED, EXPIRED])
def test_credentials_that_expire_stop_the_run_instead_of_failing_its_images(flaky, clock, error):
    for name in ("/a", "/b", "/probe"):
        flaky.instead[name] = (FOR_EVER, error)
    with pytest.raises(InputError, match=r"access was denied to flaky://probe, .*; the same command resumes") as caught:
        fetch_flaky("a", "b")
    assert "\n" not in str(caught.value)
    assert clock.now < 20


def test_an_outage_stops_the_run_after_its_limit_instead_of_failing_its_images(flaky, clock):
    for name in ("/a", "/b", "/probe"):
        flaky.instead[name] = (FOR_EVER, BUSY)
    with pytest.raises(StorageUnavailableError, match=r"cannot read flaky://probe: .* the same command resumes"):
        fetch_flaky("a", "b")
    assert 100 < clock.now < 200


@pytest.mark.parametrize(("error", "calls"), [(BUSY, 10), (DENIED, 2)])
def test_an_outage_or_a_denial_that_ends_leaves_no_trace(flaky, error, calls):
    for name in ("/a", "/b", "/probe"):
        flaky.instead[name] = (calls, error)
    assert fetch_flaky("a", "b") == [A, B]


def test_an_outage_between_two_failures_of_one_image_does_not_count_for_it(flaky):
    # The first probe finds the storage well, the second does not, at first: what the image says then proves nothing.
    flaky.instead["/a"] = (12, BUSY)
    real = FlakyStore.cat_file
    outages = iter([False, True])

    class Second(FlakyStore):
        def cat_file(self, path, start=None, end=None, **options):
            if path == "/probe" and next(outages, False):
                raise BUSY
            return real(self, path, start, end)

    fsspec.register_implementation("flaky", Second, clobber=True)
    assert fetch_flaky("a") == [A]


def test_a_storage_that_never_answers_at_once_is_given_up_some_time(flaky):
    flaky.instead["/a"] = (FOR_EVER, BUSY)
    real = FlakyStore.cat_file
    probed = Counter()

    class Wavering(FlakyStore):
        def cat_file(self, path, start=None, end=None, **options):
            probed[path] += 1
            if path == "/probe" and probed[path] % 2:
                raise BUSY
            return real(self, path, start, end)

    fsspec.register_implementation("flaky", Wavering, clobber=True)
    with pytest.raises(StorageUnavailableError, match="storage failed 20 times in a row"):
        fetch_flaky("a")
    assert probed["/probe"] == 40


def test_a_body_that_was_cut_in_silence_is_fetched_again(flaky, clock):
    flaky.instead |= {"/a": (2, b"aaaaa"), "/b": (1, b"")}
    assert fetch_flaky("a", "b") == [A, B]
    assert flaky.calls == {"/a": 3, "/b": 2}


def test_a_body_that_is_always_cut_is_an_answer(flaky):
    flaky.instead["/a"] = (FOR_EVER, b"aaaaa")
    (answer,) = fetch_flaky("a")
    assert isinstance(answer, ConnectionError)
    assert str(answer) == "5 of 10 bytes came"


@pytest.mark.parametrize("data", [b"", b"short", b"a" * 11, b"a" * 5000])
def test_an_object_of_another_length_has_changed(flaky, clock, data):
    images = planned("a", "b")
    flaky().pipe_file("/a", data)
    changed, other = fetch(images, {}, "flaky://probe")
    assert isinstance(changed, ChangedError)
    assert str(changed) == f"planned with 10 bytes, now {len(data)}"
    assert other == B
    assert clock.slept == []
    assert flaky.longest["/a"] <= 11  # an object that has grown is not loaded


def test_an_object_that_shrank_below_the_range_has_changed(flaky):
    images = planned("a")
    flaky().pipe_file("/a", b"")
    flaky.instead["/a"] = (FOR_EVER, BAD_RANGE)  # what S3 says of a range in an empty object
    (answer,) = fetch(images, {}, "flaky://probe")
    assert str(answer) == "planned with 10 bytes, now 0"


def test_a_cut_body_of_an_object_with_another_etag_is_a_change(flaky):
    flaky.instead["/a"] = (FOR_EVER, b"aaaaa")
    (answer,) = fetch(planned("a", etag="0123"), {}, "flaky://probe")
    assert isinstance(answer, ChangedError)
    assert str(answer).startswith("planned with ETag 0123, now ")


def test_an_object_deleted_while_its_body_came_short_is_missing(flaky):
    images = planned("a")
    flaky.instead["/a"] = (FOR_EVER, b"aaaaa")
    del flaky.store["/a"]
    (answer,) = fetch(images, {}, "flaky://probe")
    assert isinstance(answer, FileNotFoundError)


def test_without_a_planned_length_what_comes_is_the_image(flaky):
    assert fetch(planned("a", size_bytes=None, etag=None), {}, None) == [A]


def test_of_an_unknown_length_no_more_comes_than_a_worker_takes(flaky, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "MAX_IMAGE_BYTES", 10)
    flaky().pipe_file("/b", b"b" * 5000)
    small, large = fetch(planned("a", "b", size_bytes=None, etag=None), {}, "flaky://probe")
    assert (small, type(large)) == (A, TooLargeToFetchError)
    assert flaky.longest["/b"] == 11
    (tmp_path / "small").write_bytes(A)
    (tmp_path / "large").write_bytes(b"b" * 11)
    small, large = fetch(in_folder(tmp_path, "small", "large"), {}, None)
    assert (small, str(large)) == (A, "11 bytes, the limit is 10")


def test_ranges_of_a_container_come_as_they_are_and_empty_ones_are_not_asked_for(flaky):
    flaky().pipe_file("/tar", b"0123456789")
    places = [Location("flaky://tar", "range", 2, 3), Location("flaky://tar", "range", 5, 0)]
    images = [SourceObject(f"flaky://tar#{place.offset}", place.length, None, place) for place in places]
    assert fetch(images, {}, "flaky://probe") == [b"234", b""]
    assert flaky.calls == {"/tar": 1}


def test_an_empty_object_of_unknown_length_is_empty(flaky):
    flaky.instead["/a"] = (FOR_EVER, BAD_RANGE)
    assert fetch(planned("a", size_bytes=None, etag=None), {}, "flaky://probe") == [b""]


def test_neither_the_web_nor_what_planning_refused_is_a_probe(flaky):
    refused = SourceObject("flaky://a", 10, None, error="refused")
    images = [SourceObject("http://127.0.0.1:1/a.png", None, None), refused, *planned("b")]
    assert find_probe(images, {}) == "flaky://b"


def test_a_store_that_cannot_be_opened_is_the_fault_of_its_images_alone(flaky, monkeypatch):
    def open_filesystem(uri, options):
        if uri.startswith("gs://"):
            raise ConfigError("cannot open 'gs://b/a.jpg': install gcsfs")
        return real(uri, options)

    real = fetching.open_filesystem
    monkeypatch.setattr(fetching, "open_filesystem", open_filesystem)
    images = [SourceObject(f"gs://b/{name}.jpg", None, None) for name in "ab"]
    answers = fetch(images, {}, "flaky://probe")
    assert [(type(answer), str(answer)) for answer in answers] == [
        (RefusedError, "cannot open 'gs://b/a.jpg': install gcsfs")
    ] * 2
    assert find_probe([*images, *planned("b")], {}) == "flaky://b"
    with pytest.raises(InputError, match=r"^cannot read the images \(gs://b/b.jpg\): cannot open .*: install gcsfs$"):
        find_probe(images, {})


def test_what_is_too_large_for_a_worker_is_not_fetched(flaky, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_IMAGE_BYTES", 10)
    (large,) = planned("b", size_bytes=11)
    small, answer = fetch([*planned("a"), large], {}, "flaky://probe")
    assert small == A
    assert isinstance(answer, TooLargeToFetchError)
    assert str(answer) == "11 bytes, the limit is 10"
    assert flaky.calls == {"/a": 1}
    assert isinstance(fetch([large], {}, None)[0], TooLargeToFetchError)


def test_the_probe_is_the_first_image_that_can_be_read(flaky):
    flaky.instead |= {"/a": (FOR_EVER, FileNotFoundError("gone")), "/b": (FOR_EVER, DENIED), "/c": (2, BUSY)}
    assert find_probe(planned("a", "b", "c", "probe"), {}) == "flaky://c"
    assert flaky.calls == {"/a": 1, "/b": 1, "/c": 3}


def test_where_all_are_gone_there_is_no_probe(flaky):
    assert find_probe(planned("none-0", "none-1"), {}) is None
    assert find_probe([], {}) is None


@pytest.mark.parametrize(("listed", "stored"), [("a%20b", "/a b"), ("in\\a", "/in/a"), ("e\u0301", "/\u00e9")])
def test_an_object_that_is_called_by_another_form_of_its_name_is_a_probe(flaky, listed, stored):
    images = [SourceObject(f"flaky://bucket{name}", None, None) for name in ("/none", f"/{listed}")]
    flaky().pipe_file(f"/bucket{stored}", b"found")
    assert find_probe(images, {}) == f"flaky://bucket{stored}"
    with_size = [SourceObject(image.uri, 5, None) for image in images]
    assert find_probe(with_size, {}) is None


def test_a_plan_of_which_nothing_may_be_read_is_refused_at_once_in_one_line(flaky, clock):
    for name in ("/a", "/b"):
        flaky.instead[name] = (FOR_EVER, DENIED)
    with pytest.raises(InputError, match=r"^cannot read the images \(flaky://b\): as the server says$"):
        find_probe(planned("a", "b"), {})
    assert clock.slept == []


def test_a_wrong_key_is_refused_at_the_first_image(flaky):
    for name in ("/a", "/b"):
        flaky.instead[name] = (FOR_EVER, EXPIRED)
    with pytest.raises(InputError, match=r"flaky://a"):
        find_probe(planned("a", "b"), {})
    assert flaky.calls == {"/a": 1}


def test_a_storage_that_does_not_answer_is_said_to_be_unavailable(flaky):
    flaky.instead["/a"] = (FOR_EVER, BUSY)
    with pytest.raises(StorageUnavailableError):
        find_probe(planned("a", "b"), {})
