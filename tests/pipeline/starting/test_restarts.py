"""What a run does after a start that failed."""

import pytest
import ray

from sam_pipeline.config import ModelConfig
from sam_pipeline.errors import ClusterError, ConfigError, FencedError, RunFailedError
from sam_pipeline.pipeline.starting.prepared_job import _resolved_precision
from sam_pipeline.pipeline.starting.restarts import ray_errors, restarting

FAILED, GONE = RunFailedError("a machine was lost"), ClusterError("too few CPUs")


@pytest.mark.parametrize(
    ("errors", "max_restarts", "raised"),
    [
        ([FAILED, FAILED], 2, None),
        ([FAILED, FAILED], 1, FAILED),
        ([FAILED], 0, FAILED),
        # Machines that a start had may come back; those that the first one did not find were never there.
        ([FAILED, GONE, GONE], 3, None),
        ([GONE], 3, GONE),
        ([FAILED, FencedError("overtaken")], 3, FencedError),
        ([FAILED, ConfigError("no such setting")], 3, ConfigError),
    ],
)
def test_what_may_pass_is_started_again_as_often_as_asked_for(errors, max_restarts, raised):
    left = list(errors)

    def start():
        if left:
            raise left.pop(0)
        return "done"

    starts = restarting(max_restarts).copy(sleep=lambda _: None)
    if raised is None:
        assert starts(start) == "done"
        return
    kind = raised if isinstance(raised, type) else type(raised)
    with pytest.raises(kind):
        starts(start)
    assert not left


def test_all_calls_of_a_run_and_all_its_processes_share_the_restarts(monkeypatch, caplog):
    monkeypatch.setattr("sam_pipeline.pipeline.starting.restarts.num_restarts", lambda: 1)
    starts = restarting(3).copy(sleep=lambda _: None)
    for answers in (iter([FAILED, "done"]), iter([FAILED, "done"])):
        assert starts(lambda answers=answers: _raised(next(answers))) == "done"
    with pytest.raises(RunFailedError):
        starts(lambda: _raised(FAILED))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["start 2 failed", "start 3 failed"]


def _raised(answer):
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_an_error_of_an_actor_is_said_and_not_where_it_came_up():
    error = ray.exceptions.RayTaskError("annotate", "a long traceback", ValueError("no such column"))
    with (
        pytest.raises(RunFailedError, match=r"Ray failed \(ValueError: no such column\); the same command"),
        ray_errors(),
    ):
        raise error


@pytest.mark.parametrize(
    ("precision", "device", "resolved"),
    [("auto", "cuda", "fp16"), ("auto", "cpu", "fp32"), ("bf16", "cuda", "bf16"), ("fp16", "cpu", "fp16")],
)
def test_what_is_not_given_is_half_precision_on_gpus_alone(precision, device, resolved):
    assert _resolved_precision(ModelConfig(precision=precision), device) == resolved
