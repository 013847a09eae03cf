import os

import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.pipeline import monitor as monitor_module
from sam_pipeline.pipeline.monitor import RunMonitor, StageTimes, report_batch_errors, report_errors
from tests.pipeline.jobs import Monitor


def test_images_are_counted_by_status_with_their_masks():
    monitor = RunMonitor()
    monitor.add([("ok", 3), ("decode_error", 0)])
    monitor.add([("ok", 1)])
    counts = monitor.read().counts
    assert (counts.num_images, counts.num_errors, counts.num_masks) == (3, 1, 4)


def test_times_are_added_up_by_stage():
    monitor = RunMonitor()
    for times in (("read", 16, 2.0, 0.5), ("encode", 16, 5.0, 4.0), ("read", 4, 0.5, 0.25)):
        monitor.add_time(*times)
    assert monitor.read().stage_times == {"read": StageTimes(20, 2.5, 0.75), "encode": StageTimes(16, 5.0, 4.0)}


def test_the_first_failure_is_kept_and_the_last_note():
    monitor = RunMonitor()
    assert monitor.read().failure is None
    first = InputError("first")
    for error in (first, InputError("second")):
        monitor.fail(error)
    for text in ("one", "two"):
        monitor.note(text)
    assert monitor.read().failure is first
    assert monitor.read().last_error == "two"


def test_an_error_of_an_image_is_noted_in_one_line_and_raised():
    monitor = Monitor()
    with pytest.raises(ValueError, match="odd"), report_errors(monitor):
        raise ValueError("odd\nand more")
    assert monitor.told == [("note", "ValueError: odd and more")]


LOST = RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize(("error", "ended"), [(LOST, True), (RuntimeError("CUDA out of memory"), False)])
def test_a_batch_that_loses_its_device_ends_the_process_once_the_driver_knows(error, ended, monkeypatch):
    monitor, done = Monitor(), []
    monkeypatch.setattr(monitor_module, "read_monitor", lambda monitor: done.append(list(monitor.told)))
    monkeypatch.setattr(os, "_exit", done.append)
    with pytest.raises(RuntimeError), report_batch_errors(monitor):
        raise error
    told = [("note", f"RuntimeError: {error}")]
    assert monitor.told == told
    assert done == ([told, 1] if ended else [])


def test_at_its_start_an_actor_may_not_end_its_process(monkeypatch):
    """Ray would start it again and again; so a device that is broken for good is an error."""
    monkeypatch.setattr(os, "_exit", lambda _: pytest.fail("ended"))
    with pytest.raises(RuntimeError), report_errors(Monitor()):
        raise LOST
