import json

import pytest

from sam_pipeline.config import AnnotateConfig, ModelConfig
from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.machines.resources import Cluster
from sam_pipeline.pipeline.starting import prepared_job
from sam_pipeline.pipeline.starting.planned_run import PlannedRun
from sam_pipeline.pipeline.starting.prepared_job import prepare_job
from sam_pipeline.storage.tables.reading.run_header import RunHeader

CPUS = Cluster(4, 0, 4, 0, 0, 0, 4)


class WentOn(Exception):  # noqa: N818  not an error
    """The division was accepted."""


def run_of(begun_in, **model):
    before = RunHeader(0, {"fingerprint": json.dumps({"precision": begun_in})})
    return PlannedRun(AnnotateConfig(output="o", model=ModelConfig(**model)), None, None, "0" * 64, before)


@pytest.fixture(autouse=True)
def no_lines(monkeypatch):
    def go_on(*_):
        raise WentOn

    monkeypatch.setattr(prepared_job, "division_lines", go_on)


def test_a_run_that_began_on_gpus_does_not_go_on_without_them_unless_it_is_told_to():
    """Else a restart after the loss of all GPUs would be refused for its precision, which nobody has set."""
    with pytest.raises(ClusterError, match="the run began on GPUs, and the cluster has none now"):
        prepare_job(run_of("fp16"), CPUS, None)


@pytest.mark.parametrize(
    ("precision", "model"),
    [("fp32", {}), ("fp16", {"device": "cpu"}), ("fp16", {"precision": "fp16"}), ("bf16", {"precision": "bf16"})],
)
def test_others_go_on(precision, model):
    with pytest.raises(WentOn):
        prepare_job(run_of(precision, **model), CPUS, None)
