"""Fixtures of the fault tests: a cluster that outlives its drivers, numbered images on S3, and runs over them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest

from tests.clusters import ray_head
from tests.end_to_end.tables import Row, num_committed, read_rows
from tests.faults.fake_engine import (
    SIZE,
    Instructions,
    decoded_numbers,
    decoding_machines,
    expected_masks,
    image_file,
    without_scores,
)
from tests.faults.proxy import FaultProxy, fault_proxy
from tests.processes import Program, Start
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[2]

NUM_IMAGES = 40

SMALL_SHARDS = ("--shard-rows", "4", "--commit-interval-s", "0.1")
"""Many commits, so that a fault hits in the middle."""

IMPATIENT = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 2}}
"""Storage options with which a stalled request costs seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run those that need a machine without a cluster first: the one that is shared lasts to the end."""
    items.sort(key=lambda item: item.get_closest_marker("without_cluster") is None)


@dataclass(frozen=True)
class Run:
    """An output, and what it takes to work on it."""

    start: Start
    s3: S3Server
    input: str
    output: str
    env: Mapping[str, str]
    log: Path
    num_images: int = NUM_IMAGES
    instructions: Instructions = field(default_factory=Instructions)

    def annotate(self, *flags: object, address: str | None = None, instructions: Instructions | None = None) -> Program:
        """Start the fake pipeline; a flag that is given takes the place of one of SMALL_SHARDS."""
        return self._start("annotate", *flags, address=address, instructions=instructions)

    def estimate(self, *flags: object, address: str, instructions: Instructions | None = None) -> Program:
        """Start an estimate of what annotate does with the same arguments; it prints JSON."""
        return self._start("plan", "--estimate", "--json", *flags, address=address, instructions=instructions)

    def _start(self, command: str, *flags: object, address: str | None, instructions: Instructions | None) -> Program:
        instructions = replace(instructions or self.instructions, log=str(self.log))
        env = {**self.env, "FAKE_ENGINE": json.dumps(asdict(instructions))}
        if address is not None:
            env["RAY_ADDRESS"] = address
        # Not by the environment: the workers' is that of their cluster, which may reach S3 in another way.
        storage = json.dumps({**IMPATIENT, "endpoint_url": self.s3.endpoint})
        options = ("--storage-options", storage, "--threads", 1, "--model-type", "vit_t")
        shards = [
            each
            for pair in zip(SMALL_SHARDS[::2], SMALL_SHARDS[1::2], strict=True)
            if pair[0] not in flags
            for each in pair
        ]
        arguments = ("--input", self.input, "--output", self.output, *options, *shards, *flags)
        return self.start("-m", "tests.faults.fake_run", command, *arguments, script="python", env=env)

    def num_committed(self) -> int:
        """How many rows are committed."""
        return num_committed(self.output, self.s3.storage_options)

    def rows(self) -> list[Row]:
        """All committed rows, by image_id."""
        return read_rows(self.output, self.s3.storage_options)

    def committed_ids(self) -> set[int]:
        """The images that have a row."""
        return {row["image_id"] for row in self.rows()} if self.num_committed() else set()

    def decoded_numbers(self) -> list[int]:
        """Every image that was decoded, as often as it was, in all starts."""
        return decoded_numbers(self.log)

    def decoding_machines(self) -> set[str]:
        """Ids of the machines that decoded images, in all starts."""
        return decoding_machines(self.log)

    def through(self, proxy: FaultProxy) -> Run:
        """The same run, reaching S3 through a proxy."""
        return replace(self, s3=proxy.server, env={**self.env, **proxy.server.env})

    def to_output(self, output: str) -> Run:
        """A run over the same images."""
        return replace(self, output=output)

    def plan(self) -> Program:
        """Start planning."""
        return self.start("plan", "--input", self.input, "--output", self.output, env=self.env)

    def assert_complete(self, *, but: Mapping[int, str] | None = None) -> None:
        """Every image exactly once, as an undisturbed run would have it, and `verify` finds nothing wrong."""
        self.assert_rows(but=but)
        verified = self.start("verify", self.output, env=self.env).wait()
        assert verified.exit_code == 0, verified.stdout + verified.stderr

    def assert_rows(self, *, but: Mapping[int, str] | None = None) -> None:
        """Every image exactly once, as an undisturbed run would have it; but some may have another status."""
        but = but or {}
        rows = self.rows()
        assert [row["image_id"] for row in rows] == list(range(self.num_images))
        assert {row["image_id"]: row["status"] for row in rows if row["status"] != "ok"} == dict(but)
        for row in rows:
            number = row["image_id"]
            assert row["uri"] == f"{self.input}/{number:06}.png"
            if number not in but:
                assert (row["height"], row["width"], row["error"]) == (SIZE, SIZE, None)
                assert [without_scores(mask) for mask in row["masks"]] == [
                    without_scores(mask.to_dict()) for mask in expected_masks(number)
                ]


@pytest.fixture(scope="session")
def fault_env(base_env, s3, tmp_path_factory):
    """What the clusters and their drivers have in common; workers find the fake engine in this repository."""
    return base_env | s3.env | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def cluster(fault_env, start):
    """The address of a cluster of one node with two CPUs; killed drivers leave it as it was."""
    with ray_head(start, fault_env, num_cpus=2) as head:
        yield head.address


@pytest.fixture(scope="session")
def bucket(s3):
    """A bucket with numbered images below `images/`."""
    name = s3.create_bucket()
    put_images(s3, name)
    return name


def put_images(s3: S3Server, bucket: str, num_images: int = NUM_IMAGES) -> None:
    """Upload the numbered images."""
    for number in range(num_images):
        s3.put(bucket, f"images/{number:06}.png", image_file(number))


@pytest.fixture
def run(start, s3, bucket, fault_env, tmp_path):
    """A run over the images, to an output of its own."""
    log = tmp_path / "decoded"
    log.mkdir()
    return Run(start, s3, f"s3://{bucket}/images", f"s3://{bucket}/runs/{tmp_path.name}", fault_env, log)


@pytest.fixture
def proxied(run):
    """The run, reaching S3 through a proxy, and the proxy."""
    with fault_proxy(run.s3) as proxy:
        yield run.through(proxy), proxy


@pytest.fixture
def own_images(run):
    """The run over images of its own, which may be changed, and their bucket."""
    bucket = run.s3.create_bucket()
    put_images(run.s3, bucket)
    return replace(run, input=f"s3://{bucket}/images"), bucket
