import threading
import time

import pytest

from benchmarks.measured.stages import STAGES, StageClock


def test_an_inner_function_takes_its_time_from_the_outer_one():
    clock = StageClock()
    inner = clock.wrap("decode", lambda: time.sleep(0.05))

    def work():
        time.sleep(0.02)
        inner()

    clock.wrap("masks", work)()
    seconds = clock.seconds(total=0.1)
    assert seconds["decode"] == pytest.approx(0.05, abs=0.015)
    assert seconds["masks"] == pytest.approx(0.02, abs=0.015)
    assert sum(seconds.values()) == pytest.approx(0.1)
    assert list(seconds) == list(STAGES)


def test_an_error_ends_its_stage():
    clock = StageClock()
    with pytest.raises(ZeroDivisionError):
        clock.wrap("decode", lambda: 1 / 0)()
    time.sleep(0.02)
    assert clock.seconds(total=1)["decode"] < 0.01


def test_threads_of_the_engine_do_not_count_twice():
    clock = StageClock()
    slow = clock.wrap("decode", lambda: time.sleep(0.02))

    def work():
        thread = threading.Thread(target=slow)
        thread.start()
        thread.join()

    clock.wrap("masks", work)()
    seconds = clock.seconds(total=0.02)
    assert seconds["decode"] == 0
    assert seconds["masks"] >= 0.02


def test_a_name_that_is_gone_is_told(capsys, monkeypatch):
    monkeypatch.setattr(
        "benchmarks.measured.stages.FUNCTIONS", {"ours": {"encode": ("benchmarks.measured.stages:gone",)}}
    )
    StageClock().watch("ours")
    assert "benchmarks.measured.stages:gone is not there" in capsys.readouterr().err
