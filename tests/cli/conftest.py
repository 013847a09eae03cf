import pytest

from sam_pipeline.cli.commands import main


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command; returns its exit code, what it printed, and what it said on standard error."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run
