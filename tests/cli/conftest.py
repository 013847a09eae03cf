import logging

import pytest

from sam_pipeline.cli.commands import main


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(logging.getLogger("sam_pipeline"), "level", logging.NOTSET)
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def cli(capsys):
    """Run a command; returns its exit code, what it printed, and what it said on standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run
