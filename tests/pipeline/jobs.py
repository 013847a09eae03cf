"""A run's record as workers get it, without a cluster."""

from types import SimpleNamespace

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.pipeline.job import Job


def job_of(config=None, **changes):
    """A job on the CPU that limits nothing; changes replace fields."""
    config = config or AnnotateConfig(output="run")
    fields = {"output": config.output, "device": "cpu", "precision": "fp32", "weights_sha256": "0", "threads": 1}
    limits = {"stall_timeout_s": 600, "image_timeout_s": 150, "worker_memory_bytes": 2**40}
    return Job(config, **(fields | limits | changes))


class Monitor:
    """What workers tell, kept in a list; the calls look like an actor's."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: self.told.append((name, *arguments)))
