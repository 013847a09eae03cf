"""The storage layer over a network and a store that fail, through the proxy."""

import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from sam_pipeline.errors import InputError, StorageUnavailableError
from sam_pipeline.storage.inputs.fetching import ChangedError, fetch, find_probe
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.objects import retrying
from sam_pipeline.storage.objects.filesystem import open_filesystem
from sam_pipeline.storage.objects.retrying import error_kind, is_transient, retried
from sam_pipeline.storage.prompts.prompt_files import read_prompts
from sam_pipeline.storage.prompts.prompt_rows import PromptOptions
from sam_pipeline.storage.tables.delta import open_table
from sam_pipeline.storage.tables.delta_place import delta_storage_options
from tests.faults.delta_steps import create_and_commit
from tests.faults.proxy import NO_RANDOM_FAULTS, TRANSIENT, Fault, RandomFaults, Rule, fault_proxy
from tests.storage.inputs.listings import list_images

pytestmark = pytest.mark.s3

NUM_IMAGES = 100

# The server says nothing of a body that it cut itself, and delta-rs has no length to compare with: it fails with what
# its parsers say, which is not tried again.
SEEN_BY_DELTA = tuple(fault for fault in TRANSIENT if fault is not Fault.SHORT_BODY)


def images_in(uri, options):
    return [object_of_row(row) for row in list_images(uri, options).images.to_pylist()]


def data_of(index):
    return bytes([index]) * (1000 + index)


@pytest.fixture(scope="module")
def bucket(s3):
    name = s3.create_bucket()
    for index in range(NUM_IMAGES):
        s3.put(name, f"in/{index % 3}/{index:03}.jpg", data_of(index))
    return name


@pytest.fixture
def proxy(s3, monkeypatch):
    with fault_proxy(s3, stall_s=3) as proxy:
        for name, value in proxy.server.env.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def options(proxy):
    """Time-outs shorter than the stalls of the proxy."""
    # The endpoint too, else fsspec gives the filesystem of another test's proxy.
    return {"endpoint_url": proxy.endpoint, "config_kwargs": {"read_timeout": 0.5, "connect_timeout": 1}}


def prompt_files(folder):
    """Prompts in every format; labels in two folders."""
    boxes = [{"image": f"{n:03}.jpg", "bbox": [n, 1, 2, 3], "score": n / 100} for n in range(NUM_IMAGES)]
    (folder / "p.json").write_text(json.dumps([box | {"image_id": box["image"]} for box in boxes]))
    (folder / "p.jsonl").write_text("".join(json.dumps(box) + "\n" for box in boxes))
    pq.write_table(pa.Table.from_pylist(boxes), folder / "p.parquet", row_group_size=10)
    for n in range(NUM_IMAGES):
        (folder / f"labels/{n % 2}").mkdir(parents=True, exist_ok=True)
        (folder / f"labels/{n % 2}/{n:03}.txt").write_text(f"{n} 0.5 0.5 0.25 0.{n + 1}\n" * (n % 3))
    return ["p.json", "p.jsonl", "p.parquet", "labels"]


def test_prompts_are_read_as_from_a_disk_though_three_requests_in_ten_fail(proxy, options, s3, tmp_path):
    names, bucket = prompt_files(tmp_path), s3.create_bucket()
    s3.put_folder(bucket, "in", tmp_path)
    proxy.random_faults = RandomFaults(0.3, seed=7)
    for name in names:
        on_disk = pa.concat_tables(read_prompts(f"{tmp_path}/{name}", PromptOptions({})))
        on_s3 = pa.concat_tables(read_prompts(f"s3://{bucket}/in/{name}", PromptOptions(options)))
        assert on_disk.num_rows == (99 if name == "labels" else NUM_IMAGES)
        assert on_s3.to_pylist() == on_disk.to_pylist(), name


@pytest.mark.slow
@pytest.mark.soak  # prompts, above, are read through the same faults
def test_with_three_requests_in_ten_failing_everything_is_done_and_the_same(proxy, options, bucket):
    proxy.random_faults = RandomFaults(0.3, seed=7)
    listing = list_images(f"s3://{bucket}/in", options)
    assert list_images(f"s3://{bucket}/in/*/*.jpg", options) == listing
    images = [object_of_row(row) for row in listing.images.to_pylist()]
    assert [image.uri for image in images] == sorted(
        f"s3://{bucket}/in/{index % 3}/{index:03}.jpg" for index in range(NUM_IMAGES)
    )
    probe = find_probe(images, options)
    assert probe == images[0].uri
    for start in range(0, NUM_IMAGES, 8):
        batch = images[start : start + 8]
        assert fetch(batch, options, probe) == [data_of(int(image.uri[-7:-4])) for image in batch]

    proxy.random_faults = RandomFaults(0.3, seed=8, kinds=SEEN_BY_DELTA)
    uri = f"s3://{bucket}/table"
    create_and_commit(uri, options, num_commits=10)

    proxy.random_faults = NO_RANDOM_FAULTS
    found = open_table(uri, options).to_pyarrow_table().sort_by("image_id")
    assert found["image_id"].to_pylist() == list(range(20))
    assert found["data"].to_pylist() == [f"row {image_id // 2}" for image_id in range(20)]
    assert set(proxy.faults) == set(TRANSIENT)
    assert proxy.faults.total() > 50


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("pattern", ["in", "in/*/*.jpg", "in/**/0*.jpg"])
def test_a_listing_that_fails_is_never_a_shorter_listing(proxy, options, bucket, fault, pattern, monkeypatch):
    proxy.rules.append(Rule(fault, method="GET"))
    monkeypatch.setattr(
        "sam_pipeline.storage.inputs.listing.files.retried", lambda call, **options: retried(call, **options, limit_s=0)
    )
    filesystem, _ = open_filesystem(f"s3://{bucket}", options)
    filesystem.invalidate_cache()
    with pytest.raises(StorageUnavailableError, match="cannot list "):
        list_images(f"s3://{bucket}/{pattern}", options)
    assert proxy.faults[fault] >= 1


@pytest.mark.parametrize("fault", [Fault.STALLED_HEADERS, Fault.STALLED_BODY])
def test_time_outs_reach_both_clients(proxy, options, bucket, fault):
    filesystem, path = open_filesystem(f"s3://{bucket}/in/0/000.jpg", options)
    proxy.rules.append(Rule(fault, method="GET"))
    started = time.monotonic()
    with pytest.raises(Exception) as caught:  # noqa: PT011  of several libraries
        filesystem.cat_file(path, start=0, end=2000)
    assert is_transient(caught.value)
    assert 0.5 <= time.monotonic() - started < 2
    started = time.monotonic()
    with pytest.raises(StorageUnavailableError, match="timed out"):
        retried(lambda: _open_delta(f"s3://{bucket}/none", options), what="open", limit_s=0)
    # delta-rs tries a stalled request four times.
    assert 0.5 <= time.monotonic() - started < 8


def _open_delta(uri, options):
    return DeltaTable(uri, storage_options=delta_storage_options(uri, options))


def test_credentials_that_expire_in_mid_run_stop_it(proxy, options, bucket, monkeypatch):
    images = images_in(f"s3://{bucket}/in", options)
    probe = find_probe(images, options)
    assert fetch(images[:2], options, probe) == [data_of(0), data_of(3)]
    monkeypatch.setattr(retrying, "_MAX_DENIALS", 2)
    proxy.rules.append(Rule(Fault.ACCESS_DENIED))
    with pytest.raises(InputError, match=r"access was denied to .*; the same command resumes"):
        fetch(images[:2], options, probe)


def test_one_forbidden_one_missing_and_one_changed_object_are_answers(s3, proxy, options, bucket):
    images = images_in(f"s3://{bucket}/in", options)
    proxy.rules.append(Rule(Fault.ACCESS_DENIED, path="003.jpg"))
    missing = SourceObject(f"s3://{bucket}/in/none.jpg", 5, "0")
    changed = SourceObject(images[2].uri, 7, "0")
    answers = fetch([images[0], images[1], missing, changed], options, images[0].uri)
    assert [type(answer) for answer in answers] == [bytes, PermissionError, FileNotFoundError, ChangedError]
    s3.put(bucket, "empty.jpg", b"")
    shrunk, empty = (SourceObject(f"s3://{bucket}/empty.jpg", size, None) for size in (5, 0))
    assert fetch([empty], options, images[0].uri) == [b""]
    (answer,) = fetch([shrunk], options, images[0].uri)
    assert str(answer) == "planned with 5 bytes, now 0"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ({"key": "AKnone", "secret": "x"}, "in"),
        ({"secret": "wrong"}, "in"),
        ({"secret": "wrong"}, "in/*/*.jpg"),
        ({"anon": True}, "in"),
        ({}, "none"),
    ],
)
def test_a_wrong_key_or_name_is_one_line_within_seconds(s3, options, bucket, key, name):
    key = {"key": s3.access_key, **key} if "secret" in key else key
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        list_images(f"s3://{bucket}/{name}", options | key)
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    image = SourceObject(f"s3://{bucket}/in/0/000.jpg", 1000, None)
    if key:
        with pytest.raises(InputError):
            find_probe([image] * 30, options | key)
    assert time.monotonic() - started < 10


def test_a_missing_bucket_is_one_line_within_seconds(options):
    started = time.monotonic()
    with pytest.raises(InputError, match="input not found: s3://no-such-bucket-at-all/in"):
        list_images("s3://no-such-bucket-at-all/in", options)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("fault", [fault for fault in TRANSIENT if fault is not Fault.SHORT_BODY])
def test_what_both_clients_say_of_a_fault_is_sorted_as_transient(proxy, options, bucket, fault):
    filesystem, path = open_filesystem(f"s3://{bucket}/in/0/000.jpg", options)
    proxy.rules.append(Rule(fault, method="GET"))
    for read in (
        lambda: filesystem.cat_file(path, start=0, end=2000),
        lambda: _open_delta(f"s3://{bucket}/x", options),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011  of several libraries
            read()
        assert error_kind(caught.value).name == "TRANSIENT", caught.value
