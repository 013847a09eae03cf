"""What a start writes of itself into the table of results: who began it, where, with what, and what it cost."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import psutil
import ray

from sam_pipeline.errors import FencedError, SamPipelineError
from sam_pipeline.pipeline.machines.cluster import current_cluster
from sam_pipeline.pipeline.machines.resources import Cluster, Resources
from sam_pipeline.pipeline.monitor import Counts
from sam_pipeline.pipeline.passes import MakeDisplay
from sam_pipeline.pipeline.progress import Display
from sam_pipeline.process import stopping
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.start_records import EndRecord, Outcome, StartRecord
from sam_pipeline.version import __version__

# What `ray job submit` gives the job's command. It also holds the runtime environment, of which nothing is kept.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# Ray names a resource of each machine with GPUs so.
_GPU_TYPE = "accelerator_type:"

_HOUR_S = 3600
_LOOK_INTERVAL_S = 30.0

logger = logging.getLogger(__name__)


class StartRecorder:
    """Takes the results over for a start, with a record of it; a second record when the context ends, in whatever way.

    Args:
        start_id: see StartRecord.
    """

    def __init__(self, start_id: str) -> None:
        self._start_id = start_id
        self._begun_s = self._looked_s = time.monotonic()
        self._cluster: Cluster | None = None
        self._cpu_s = self._gpu_s = 0.0
        self._resources: Resources | None = None
        self._table: MaskTable | None = None

    def __enter__(self) -> StartRecorder:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._table is None:
            return  # it did not begin
        if error is None:
            self._write_end(self._table, "finished", None)
        elif isinstance(error, KeyboardInterrupt):
            self._write_end(self._table, "stopped", stopping.received().name)
        else:
            self._write_end(self._table, "failed", one_line(error))

    def uses(self, cluster: Cluster, resources: Resources) -> None:
        """Take note of the cluster, from now on reserved, and of its division."""
        self._begun_s = self._looked_s = time.monotonic()
        self._cluster, self._resources = cluster, resources

    def released(self) -> None:
        """Take note that the cluster is no longer needed, and has been left."""
        self._count_hours()
        self._cluster = None

    def metering(self, make_display: MakeDisplay) -> MakeDisplay:
        """Look at the cluster whenever the display is updated, at most twice a minute: machines come and go."""
        return lambda num_images, num_before: _MeteringDisplay(make_display(num_images, num_before), self._look)

    def _look(self) -> None:
        if time.monotonic() - self._looked_s >= _LOOK_INTERVAL_S:
            self._count_hours()
            self._cluster = current_cluster()

    def _count_hours(self) -> None:
        """Count what was reserved since the last look: the cluster that it found."""
        now = time.monotonic()
        if self._cluster is not None:
            self._cpu_s += self._cluster.num_cpus * (now - self._looked_s)
            self._gpu_s += self._cluster.num_gpus * (now - self._looked_s)
        self._looked_s = now

    def take_over(
        self, output: str, pinned: Mapping[str, Any], metadata: Mapping[str, str], storage_options: StorageOptions
    ) -> MaskTable:
        """Call MaskTable.take_over, with the record. Needs a connection to the cluster, if one was noted."""
        record = StartRecord(
            start_id=self._start_id,
            started=_now(),
            user=psutil.Process().username(),
            host=socket.gethostname(),
            versions=_versions(),
            model_type=pinned["model_type"],
            weights_sha256=pinned["weights_sha256"],
            cluster=None if self._cluster is None else _cluster_facts(self._cluster),
            division=None if self._resources is None else asdict(self._resources),
            ray_job_id=None if self._cluster is None else ray.get_runtime_context().get_job_id(),
            submission_id=_submission_id(),
        )
        self._table = MaskTable.take_over(output, pinned, metadata, storage_options, record)
        return self._table

    def _write_end(self, table: MaskTable, outcome: Outcome, error: str | None) -> None:
        done, elapsed_s = table.committed, max(time.monotonic() - self._begun_s, 0.001)
        self._count_hours()
        record = EndRecord(
            ended=_now(),
            outcome=outcome,
            error=error,
            num_by_status=dict(done.num_by_status),
            num_masks=done.num_masks,
            num_bytes=done.num_bytes,
            elapsed_s=round(elapsed_s, 1),
            images_per_s=round(done.num_by_status.total() / elapsed_s, 3),
            cpu_hours=round(self._cpu_s / _HOUR_S, 4),
            gpu_hours=round(self._gpu_s / _HOUR_S, 4),
        )
        try:
            with stopping.shielded():
                table.record_end(record)
        except FencedError:
            pass  # the table is another start's now
        except SamPipelineError as failure:
            # What is committed is committed, and an error of the start itself says more.
            logger.warning("how this start ended could not be written into the output: %s", failure)


class _MeteringDisplay:
    """A display that also calls something at each update."""

    def __init__(self, display: Display, look: Callable[[], object]) -> None:
        self._display, self._look = display, look

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.__exit__(kind, error, trace)

    def update(self, counts: Counts, num_committed: int) -> None:
        self._look()
        self._display.update(counts, num_committed)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {
        "sam_pipeline": __version__,
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": importlib.metadata.version("torch"),  # not by import, which takes seconds
    }


def _cluster_facts(cluster: Cluster) -> dict[str, Any]:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpu_types = {name.removeprefix(_GPU_TYPE) for node in nodes for name in node if name.startswith(_GPU_TYPE)}
    return {
        "nodes": len(nodes),
        "cpus": cluster.num_cpus,
        "gpus": cluster.num_gpus,
        "gpu_types": sorted(gpu_types),
    }


def _submission_id() -> str | None:
    """The id of the job that `ray job submit` started this process for."""
    try:
        return str(json.loads(os.environ[_JOB_CONFIG])["metadata"]["job_submission_id"])
    except (KeyError, TypeError, ValueError):
        return None  # not submitted, or by a Ray that says it in another way
