import importlib

import pytest

from benchmarks.__main__ import COMMANDS
from benchmarks.commands.curves import Setup, curves
from benchmarks.measured.contender import CONTENDERS, PEERS
from benchmarks.measured.stages import FUNCTIONS, STAGES, StageClock
from benchmarks.photographs import photographs, synthetic_photograph


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.commands.{command}").main(["--help"])
    assert end.value.code == 0
    assert "--" in capsys.readouterr().out


def test_contenders_are_found_by_name_and_stages_of_all_are_known():
    assert set(FUNCTIONS) == set(CONTENDERS)
    assert set(PEERS) < set(CONTENDERS)
    assert all(tuple(stages) == STAGES for stages in FUNCTIONS.values())


def test_functions_of_ours_that_are_timed_exist(capsys, monkeypatch):
    clock = StageClock()
    monkeypatch.setattr(clock, "wrap", lambda stage, function: function)
    clock.watch("ours")
    assert capsys.readouterr().err == ""


def test_a_curve_changes_what_it_is_named_after():
    for name, setups in curves([4, 8], [1, 2]).items():
        values = [getattr(setup, name) for setup in setups]
        assert len(set(values)) == len(values) > 1
        others = {field: getattr(setups[0], field) for field in Setup.__dataclass_fields__ if field != name}
        assert all(getattr(setup, field) == value for setup in setups for field, value in others.items())


def test_photographs_exist():
    found = photographs()
    assert len(found) >= 18
    assert all(path.is_file() for path in found)


def test_synthetic_photographs_are_the_same_every_time():
    image = synthetic_photograph(90, 60, seed=1)
    assert image.shape == (60, 90, 3)
    assert (image == synthetic_photograph(90, 60, seed=1)).all()
    assert (image != synthetic_photograph(90, 60, seed=2)).any()
