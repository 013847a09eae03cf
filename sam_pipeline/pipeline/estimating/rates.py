"""From the progress of a sample to rates: of each stage, and of the run.

The rate of the run is the progress of the sample between its first image and its end, divided by the seconds. Progress
is more than the images that have left the decoder: while it begins, a run reads and encodes ahead. What is in between
counts as far as it has come, by the share of the work that the stages behind it make up. Work is busy seconds times
threads; that of reading and writing on CPUs is CPU seconds, since they also wait for storage. Only stages on the same
hardware as the bottleneck are counted:

- On CPUs all stages share the cores. If the encoder runs ahead, the decoder is slower meanwhile, and faster later. So
  the bottleneck's own rate says too little, while the work done in a second by all of them stays the same.
- On GPUs encoder and decoder share the devices; reading and writing share the CPUs.

Where there is hardware enough for all of them, they do not slow each other down, and running ahead gains nothing. So
the rate is limited by what the bottleneck would do by itself: its own rate, times how often the hardware was shared.

Many decoders that begin together also finish their first images together. That burst shortly after the first image is
not a rate. So if each worker of the bottleneck has done only a few images, its own rate is the limit, as if nothing
were shared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from sam_pipeline.pipeline.estimating.figures import StageFigures
from sam_pipeline.pipeline.estimating.sample import Progress, Sample
from sam_pipeline.pipeline.machines.resources import Resources, needed_gpus
from sam_pipeline.pipeline.monitor import StageName, StageTimes

STAGES: tuple[StageName, ...] = ("read", "encode", "decode", "write")
ON_GPUS: tuple[StageName, ...] = ("encode", "decode")

# Fewer groups of images say nothing of how they differ.
_LEAST_GROUPS = 4
# Images of a worker of the bottleneck, so that it does not matter who has just finished one.
_LEAST_IMAGES_A_WORKER = 5


@dataclass(frozen=True)
class Rates:
    """What a sample says of the run."""

    stages: Mapping[StageName, StageFigures]
    undisturbed: Mapping[StageName, float]
    """Images a second of each stage, had it its hardware to itself; infinite where no image reached it."""
    bottleneck: StageName
    images_per_s: float
    first_s: float
    """Seconds from the start of the actors to the first image."""
    num_at_first: float
    """Images that were done by then: parts of several, as far as they had come."""
    spread: float | None
    """See Estimate.time_spread; as if the run were endless."""


def measured_rates(sample: Sample, resources: Resources, num_cpus: float) -> Rates:
    """The rates of a sample with at least one image.

    Args:
        sample: the sample.
        resources: the division of the cluster.
        num_cpus: of the cluster.
    """
    first, last = sample.progress[0], sample.progress[-1]
    stages = {name: _stage(name, sample, resources) for name in STAGES}
    bottleneck = min(STAGES, key=lambda name: stages[name].images_per_s or math.inf)
    work = _work(stages, bottleneck, resources)
    num_at_first, seconds = _num_done(first, work), last.at_s - first.at_s
    # One image, or one block: all there is to say is what it took.
    images_per_s = (_num_done(last, work) - num_at_first) / seconds if seconds > 0 else 0.0
    if not images_per_s:
        images_per_s = last.counts.num_images / last.at_s
    is_on_gpus = resources.device == "cuda" and bottleneck in ON_GPUS
    shared = max(1.0, images_per_s * sum(work.values()) / (needed_gpus(resources) if is_on_gpus else num_cpus))
    if _goes_in_step(sample, bottleneck, resources):
        shared = 1.0
    undisturbed = {name: (stages[name].images_per_s or math.inf) * (shared if name in work else 1.0) for name in STAGES}
    return Rates(
        stages=stages,
        undisturbed=undisturbed,
        bottleneck=bottleneck,
        images_per_s=min(images_per_s, undisturbed[bottleneck]) if seconds > 0 else images_per_s,
        first_s=first.at_s,
        num_at_first=num_at_first,
        spread=_spread(sample, bottleneck),
    )


def num_workers(stage: StageName, resources: Resources) -> int:
    """Tasks or actors of a stage at once."""
    return {
        "read": resources.read_tasks,
        "encode": resources.encode_actors,
        "decode": resources.decode_actors,
        "write": resources.write_tasks,
    }[stage]


def _stage(name: StageName, sample: Sample, resources: Resources) -> StageFigures:
    workers, nothing = num_workers(name, resources), StageTimes()
    before, after = (each.stage_times.get(name, nothing) for each in (sample.progress[0], sample.progress[-1]))
    if after.num_images == before.num_images:
        before = nothing  # the first images, which take longer, are all there are
    num_images = after.num_images - before.num_images
    if not num_images:
        return StageFigures(workers, 0.0, 0.0, None)
    busy_s, cpu_s = (after.busy_s - before.busy_s) / num_images, (after.cpu_s - before.cpu_s) / num_images
    return StageFigures(workers, busy_s, cpu_s, workers / busy_s)


def _goes_in_step(sample: Sample, bottleneck: StageName, resources: Resources) -> bool:
    """Whether the workers of the bottleneck began together, and have done too few images to be apart by now."""
    first, last = (each.stage_times.get(bottleneck, StageTimes()) for each in (sample.progress[0], sample.progress[-1]))
    workers = num_workers(bottleneck, resources)
    return workers > 1 and last.num_images - first.num_images < _LEAST_IMAGES_A_WORKER * workers


def _work(
    stages: Mapping[StageName, StageFigures], bottleneck: StageName, resources: Resources
) -> dict[StageName, float]:
    """Seconds of a core, or of a GPU, that an image takes in each stage that shares the bottleneck's hardware."""
    if resources.device == "cuda":
        sharing = [name for name in STAGES if (name in ON_GPUS) == (bottleneck in ON_GPUS)]
        return {name: stages[name].busy_s_per_image for name in sharing}
    return {
        name: resources.threads * each.busy_s_per_image if name in ON_GPUS else each.cpu_s_per_image
        for name, each in stages.items()
    }


def _num_done(progress: Progress, work: Mapping[StageName, float]) -> float:
    """Images, each as far as it has come."""
    times = progress.stage_times
    return sum(each * times[name].num_images for name, each in work.items() if name in times) / sum(work.values())


def _spread(sample: Sample, stage: StageName) -> float | None:
    """Two standard errors of the seconds an image, as a share: images of a group differ from those of others.

    It is the error of a ratio, of busy seconds to images, over groups of images that were done between two looks.
    Neighbours may all be alike, so images of one stretch count as one.
    """
    groups = []
    for before, after in pairwise(sample.progress):
        num = after.stage_times[stage].num_images - before.stage_times[stage].num_images
        if num:
            groups.append((num, after.stage_times[stage].busy_s - before.stage_times[stage].busy_s))
    num_images, busy_s = (sum(column) for column in zip(*groups, strict=True)) if groups else (0, 0)
    if min(len(groups), sample.num_places) < _LEAST_GROUPS or not busy_s:
        return None
    squares = sum((seconds - num * busy_s / num_images) ** 2 for num, seconds in groups)
    groups_a_place = max(1.0, len(groups) / sample.num_places)
    return 2 * math.sqrt(groups_a_place * squares * len(groups) / (len(groups) - 1)) / busy_s
