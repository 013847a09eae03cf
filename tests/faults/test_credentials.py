"""Credentials stay where they are: a run and its failures put them into no output, log or table, also with --debug.

And a run's own Ray answers nobody without a token. Both for a cluster: tests/end_to_end/test_cluster_job.py.
"""

from __future__ import annotations

import http.server
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import pytest

from tests.end_to_end.pictures import save_photos
from tests.end_to_end.settings import SETTINGS, SMALL_SHARDS
from tests.http_servers import serving
from tests.ports import LOOPBACK

pytestmark = pytest.mark.s3

CANARY = f"canary-{secrets.token_hex(8)}"
NOBODY_LISTENS = f"{LOOPBACK}:9"


@pytest.fixture(scope="module")
def bucket(s3, tmp_path_factory):
    """A bucket with a photograph."""
    bucket = s3.create_bucket()
    s3.put_folder(bucket, "photos", save_photos(tmp_path_factory.mktemp("input") / "photos", 1))
    return bucket


@pytest.fixture
def proxy():
    """The address of a proxy that refuses everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        do_HEAD = do_GET  # noqa: N815  http.server's name

    with serving(Handler) as server:
        yield f"{LOOPBACK}:{server.server_port}"


def files_with(text, folder):
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.weights
def test_a_run_leaves_no_credential_behind(s3, bucket, start, base_env):
    arguments = ("--input", f"s3://{bucket}/photos", "--output", f"s3://{bucket}/run", *SETTINGS, *SMALL_SHARDS)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray_folder:  # sockets: a short path
        # The server is asked by http and knows no session tokens; those are in the failures below.
        env = s3.env | {"HTTPS_PROXY": f"http://user:{CANARY}@{NOBODY_LISTENS}", "RAY_TMPDIR": ray_folder}
        finished = start("annotate", *arguments, "--num-cpus", 2, "--debug", env=env).wait()
        assert finished.exit_code == 0, finished.stderr
        assert files_with("dataset", Path(ray_folder)), "these are not the logs of the run"
        for secret in (s3.secret_key, CANARY, base_env["RAY_AUTH_TOKEN"]):
            assert secret not in finished.stdout + finished.stderr
            assert files_with(secret, Path(ray_folder)) == []
            keys = s3.list_keys(bucket, "run/")
            assert [key for key in keys if secret.encode() in s3.get(bucket, key)] == []
    assert any(key.startswith("run/masks/_delta_log/") for key in keys)


@pytest.mark.parametrize(
    ("input_uri", "output", "env"),
    [
        ("s3://{bucket}/photos", "{folder}/run", {"AWS_SECRET_ACCESS_KEY": CANARY, "AWS_SESSION_TOKEN": CANARY}),
        ("{folder}/photos", "s3://{bucket}/no", {"AWS_SECRET_ACCESS_KEY": CANARY, "AWS_SESSION_TOKEN": CANARY}),
        ("s3://{bucket}/photos", "{folder}/run", {"HTTP_PROXY": f"http://user:{CANARY}@{{proxy}}"}),
    ],
    ids=["listing", "table", "proxy"],
)
def test_a_failure_shows_no_credential(s3, bucket, proxy, start, tmp_path, input_uri, output, env):
    env = {name: value.format(proxy=proxy) for name, value in env.items()}
    places = {"bucket": bucket, "folder": tmp_path}
    arguments = ("--input", input_uri.format(**places), "--output", output.format(**places), "--debug")
    finished = start("plan", *arguments, env=s3.env | env).wait()
    assert finished.exit_code in (1, 2), finished.stderr
    assert "Traceback" in finished.stderr
    assert CANARY not in finished.stdout + finished.stderr
    assert files_with(CANARY, tmp_path) == []
    assert s3.list_keys(bucket, "no/") == []


RAY_OF_A_RUN = """
import os, sys, ray
from sam_pipeline.pipeline.machines.cluster import connected

with connected(num_cpus=1):
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
    sys.stdin.read()
"""


def test_the_ray_of_a_run_answers_nobody_without_its_token(base_env, tmp_path):
    env = {name: value for name, value in base_env.items() if not name.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", RAY_OF_A_RUN]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        address, token = run.stdout.readline().split()
        with grpc.insecure_channel(address) as channel:
            ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
            for metadata in ([], [("authorization", f"Bearer {'0' * 64}")]):
                with pytest.raises(grpc.RpcError) as refused:
                    ask(b"", metadata=metadata, timeout=60)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert ask(b"", metadata=[("authorization", f"Bearer {token}")], timeout=60)
        run.stdin.close()
    assert run.returncode == 0
    assert list(tmp_path.iterdir()) == [], "Ray writes a token into the home folder, readable by all"
