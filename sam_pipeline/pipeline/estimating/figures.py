"""What an estimate says. Field names carry units, and are the keys of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam_pipeline.pipeline.monitor import StageName  # which imports Ray


@dataclass(frozen=True)
class SampleFigures:
    """The images that the estimate was made from."""

    num_images: int
    num_by_status: Mapping[str, int]
    time_s: float


@dataclass(frozen=True)
class StageFigures:
    """What a stage does while all of them work: on CPUs they take turns, so it would do more by itself."""

    num_workers: int
    """Tasks or actors at once."""
    busy_s_per_image: float
    """Seconds of one worker."""
    cpu_s_per_image: float
    """CPU seconds of its process meanwhile: without waiting for storage or a device."""
    images_per_s: float | None
    """All workers together, if they never waited for another stage. None: no image of the sample reached this stage."""


@dataclass(frozen=True)
class Requests:
    """Requests to stores, as their prices tell them apart. Local files and web servers get none."""

    num_put: int = 0
    """Requests that write or list: PUT, LIST."""
    num_get: int = 0
    """Requests that read: GET, HEAD."""


@dataclass(frozen=True)
class Cost:
    """In the currency of the prices. None: there is no price for it, or it is not known how much there is."""

    nodes: float | None = None
    requests: float | None = None
    storage_per_month: float | None = None


@dataclass(frozen=True)
class RunFigures:
    """What the images that are left would take on some machines."""

    num_nodes: int
    num_gpus: float
    """What the actors reserve."""
    images_per_s: float
    """Once the stages are busy."""
    time_s: float
    """With Ray's start, the actors' start and the end of the run."""
    node_hours: float
    gpu_hours: float
    requests: Requests
    cost: Cost


@dataclass(frozen=True)
class Estimate:
    """What a run would take, or what is left of it."""

    output: str
    num_images: int
    """Planned."""
    num_left: int
    """Planned, and without a row."""
    estimate_s: float
    """What the estimate itself took."""
    bytes_out: int | None = 0
    """Bytes of results. Until a vacuum, the files before compaction take up to as many again. None: the sample wrote no
    shard."""
    time_spread: float | None = None
    """The time may be off by this share of it, since the sample holds some images and not others: two standard errors.
    None where too few images were done to tell."""
    sample: SampleFigures | None = None
    """None where nothing is left to do; so with what follows."""
    stages: Mapping[StageName, StageFigures] | None = None
    bottleneck: StageName | None = None
    """The stage that is slowest, and keeps the others waiting."""
    run: RunFigures | None = None
    one_more_node: RunFigures | None = None
    """With one more machine that is like the average of those there are, and works as undisturbed as they do. None
    where encoders and decoders are on different machines: one more of which kind?"""

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, as `plan --estimate --json` prints them."""
        return asdict(self)
