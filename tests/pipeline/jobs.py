"""A run's record as workers get it, without a cluster."""

from types import SimpleNamespace

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.pipeline.job import Job
from sam_pipeline.pipeline.workers.sam_backend import SAM


def job_of(config=None, **changes):
    """A job on the CPU that limits nothing; changes replace fields."""
    config = config or AnnotateConfig(output="run")
    fields = {"output": config.output, "table_id": "", "device": "cpu", "precision": "fp32", "weights_sha256": "0"}
    fields |= {"threads": 1, "finishers": 2, "backend": SAM}
    fields |= {"stall_timeout_s": 600, "image_timeout_s": 150, "worker_memory_bytes": 2**40}
    fields |= {
        "mode": "grid",
        "has_prompts": False,
        "max_masks": 0,
        "point_grids": None,
        "probe_uri": None,
        "images_folder": None,
    }
    return Job(config, **(fields | changes))


class Monitor:
    """What workers tell, kept in a list; the calls look like an actor's."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: self.told.append((name, *arguments)))
