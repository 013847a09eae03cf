import os
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import boto3
import deltalake
import psutil
import pyarrow as pa
import pytest
import s3fs
import urllib3
from botocore.client import Config

from tests.faults.proxy import Fault, RandomFaults, Rule, fault_proxy

pytestmark = pytest.mark.s3

DATA = bytes(range(256)) * 40


def options(server):
    return {"key": server.access_key, "secret": server.secret_key, "endpoint_url": server.endpoint}


@pytest.fixture(scope="module")
def bucket(s3):
    name = s3.create_bucket()
    s3.put(name, "object", DATA)
    return name


@pytest.fixture(scope="module")
def running(s3):
    with fault_proxy(s3, stall_s=3) as proxy:
        yield proxy


@pytest.fixture
def proxy(running):
    running.rules.clear()
    running.requests.clear()
    running.faults.clear()
    return running


@pytest.fixture
def filesystem(proxy):
    filesystem = s3fs.S3FileSystem(**options(proxy.server), skip_instance_cache=True)
    filesystem.retries = 1
    return filesystem


@pytest.fixture
def ask(proxy, bucket):
    """A signed GET or PUT over one plain connection that never tries again."""
    server = proxy.server
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(signature_version="s3v4"),
    )
    pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=1))

    def ask(method="GET", key="object", body=None):
        operation = {"GET": "get_object", "PUT": "put_object"}[method]
        url = client.generate_presigned_url(operation, Params={"Bucket": bucket, "Key": key})
        return pool.request(method, url, body=body)

    yield ask
    client.close()
    pool.clear()


def test_objects_of_odd_names_and_sizes_pass_through(proxy, filesystem, bucket):
    for name, data in [("a b/ü?[1]+%41.jpg", DATA), ("empty", b""), ("large", DATA * 3000)]:
        filesystem.pipe_file(f"{bucket}/odd/{name}", data)
        assert filesystem.cat_file(f"{bucket}/odd/{name}") == data
        assert filesystem.info(f"{bucket}/odd/{name}")["size"] == len(data)
    assert filesystem.cat_file(f"{bucket}/odd/large", start=5, end=9) == DATA[5:9]
    assert len(filesystem.find(f"{bucket}/odd")) == 3
    with pytest.raises(FileNotFoundError):
        filesystem.cat_file(f"{bucket}/none")
    assert set(proxy.requests) == {"GET", "PUT", "HEAD"}
    assert not proxy.faults


def test_a_delta_table_is_written_and_read_through_it(proxy, bucket):
    uri, storage = f"s3://{bucket}/table", proxy.server.storage_options
    for values in ([1, 2], [3]):
        deltalake.write_deltalake(uri, pa.table({"a": values}), mode="append", storage_options=storage)
    table = deltalake.DeltaTable(uri, storage_options=storage)
    assert (table.version(), table.to_pyarrow_table()["a"].to_pylist()) == (1, [3, 1, 2])


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.SLOW_DOWN, 503),
        (Fault.INTERNAL_ERROR, 500),
        (Fault.TOO_MANY_REQUESTS, 429),
        (Fault.ACCESS_DENIED, 403),
    ],
)
def test_an_error_of_the_server_has_its_status_and_its_code(proxy, ask, fault, status):
    proxy.rules.append(Rule(fault))
    answer = ask()
    assert answer.status == status
    assert f"<Code>{fault.value.split()[1]}</Code>".encode() in answer.data
    assert proxy.faults == {fault: 1}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.RESET, urllib3.exceptions.ProtocolError),
        (Fault.LOST_ANSWER, urllib3.exceptions.ProtocolError),
        (Fault.RESET_IN_BODY, urllib3.exceptions.ProtocolError),
        (Fault.STALLED_HEADERS, urllib3.exceptions.ReadTimeoutError),
        (Fault.STALLED_BODY, urllib3.exceptions.ReadTimeoutError),
    ],
)
def test_a_broken_connection_breaks_where_it_says(proxy, ask, fault, error):
    proxy.rules.append(Rule(fault, path="object"))
    with pytest.raises(error):
        ask()
    assert proxy.faults == {fault: 1}


def test_a_short_body_looks_complete(proxy, ask):
    proxy.rules.append(Rule(Fault.SHORT_BODY))
    answer = ask()
    assert (answer.status, answer.data) == (200, DATA[: len(DATA) // 2])


def test_a_lost_answer_means_that_it_was_done_and_a_reset_that_it_was_not(s3, proxy, ask, bucket):
    proxy.rules[:] = [Rule(Fault.LOST_ANSWER, method="PUT", nth=1), Rule(Fault.RESET, method="PUT")]
    for key in ("done", "lost"):
        with pytest.raises(urllib3.exceptions.ProtocolError):
            ask("PUT", key, b"data")
    assert set(s3.list_keys(bucket)) & {"done", "lost"} == {"done"}


def test_a_rule_hits_its_method_its_path_and_its_nth_match(proxy, ask):
    proxy.rules.append(Rule(Fault.INTERNAL_ERROR, method="GET", path=r"/object\?", nth=2))
    assert [ask().status for _ in range(3)] == [200, 500, 200]
    assert ask("PUT", "other", b"x").status == 200


def test_random_faults_come_at_their_rate_and_again_with_their_seed(s3, bucket):
    def statuses(seed):
        kinds = (Fault.SLOW_DOWN, Fault.INTERNAL_ERROR)
        with fault_proxy(s3, random_faults=RandomFaults(0.3, seed, kinds)) as proxy:
            pool = urllib3.PoolManager(retries=False)
            answers = [pool.request("GET", f"{proxy.endpoint}/{bucket}/object").status for _ in range(200)]
            pool.clear()
            assert proxy.faults.total() == sum(status != 403 for status in answers)  # 403: not signed
            return answers

    first = statuses(1)
    assert 40 < sum(status in (500, 503) for status in first) < 80
    assert statuses(1) == first
    assert statuses(2) != first


@pytest.mark.parametrize("after", [False, True])
def test_a_client_is_killed_before_or_after_its_request_is_done(s3, proxy, bucket, after):
    key = f"killed-{after}"
    proxy.rules.append(Rule(lambda pid: os.kill(pid, signal.SIGKILL), method="PUT", path=key, after=after))
    code = f"import s3fs; s3fs.S3FileSystem(**{options(proxy.server)!r}).pipe_file('{bucket}/{key}', b'x')"
    finished = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert finished.returncode == -signal.SIGKILL
    assert (key in s3.list_keys(bucket)) == after


def test_an_action_is_told_the_process_and_may_hold_the_request(proxy, ask):
    pids, go_on = [], threading.Event()
    proxy.rules.append(Rule(lambda pid: (pids.append(pid), go_on.wait(10)), path="object", after=True))
    started = time.monotonic()
    threading.Timer(0.3, go_on.set).start()
    assert ask().data == DATA
    assert time.monotonic() - started >= 0.3
    assert pids == [os.getpid()]


def test_it_ends_with_requests_in_its_hands(s3, bucket):
    before = psutil.Process().num_threads()
    with fault_proxy(s3, Rule(Fault.STALLED_HEADERS)) as proxy:
        address = urlsplit(proxy.endpoint)
        client = socket.create_connection((address.hostname, address.port))
        client.sendall(f"GET /{bucket}/object HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while not proxy.faults:
            time.sleep(0.01)
        started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 5
    assert psutil.Process().num_threads() <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port))
