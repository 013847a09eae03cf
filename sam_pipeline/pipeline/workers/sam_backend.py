"""What the stages of a run compute with: SAM."""

from __future__ import annotations

from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.pipeline.job import ActorRole, Backend, Engine, Job


def _load(job: Job, role: ActorRole) -> Engine:
    from sam_pipeline.pipeline.workers.engine import SamEngine  # torch: not for the tasks that read and write

    return SamEngine(job, role)


SAM = Backend(prepare_crops, _load)
