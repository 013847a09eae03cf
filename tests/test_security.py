"""What SECURITY.md promises of the command line: names from storage are shown, and never obeyed."""

import io
import logging
import os
import pty
import subprocess
import sys

import pytest
from rich.progress import Progress, TextColumn

from sam_pipeline.cli.commands import main
from sam_pipeline.errors import InputError
from sam_pipeline.pipeline import annotate as annotate_module
from sam_pipeline.safety.terminal import CleanFormatter, PlainConsole
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.plan import write_plan
from tests.storage.runs import row, shard, take_over

TITLE, RED, BIDI = "\x1b]0;owned\x07", "\x1b[31m", "\u202e\u2066"
EVIL = f"{TITLE}{RED}{BIDI}\x9b2J\rlost 0\nunsound 0.jpg"
SHOWN = "\ufffd]0;owned\ufffd\ufffd[31m\ufffd\ufffd\ufffd2J\ufffdlost 0\ufffdunsound 0.jpg"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code, *capsys.readouterr()


def is_plain(text):
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.fixture
def doctored(tmp_path):
    """An output whose only image has the name of an attack, and a row that is unsound."""
    uri = f"s3://bucket/{EVIL}"
    write_plan(str(tmp_path), f"s3://bucket/{EVIL}", source_table([SourceObject(uri, 1, None)]), {})
    take_over(str(tmp_path)).commit([shard(str(tmp_path), [row(0, uri=uri, status="decode_error")])])
    return tmp_path


def test_verify_shows_a_name_on_one_line_and_does_not_obey_it(capsys, doctored):
    code, out, err = run(capsys, "verify", doctored)
    assert code == 1
    problem, hint = err.splitlines()
    assert problem == f"image 0 (s3://bucket/{SHOWN}): status decode_error needs an error and no masks"
    assert hint.endswith(f"sam-pipeline retry {doctored} --damaged, and then annotate")
    assert is_plain(out)


def test_a_terminal_gets_no_escape_sequence_that_is_not_ours(doctored):
    controller, terminal = pty.openpty()
    code = "from sam_pipeline.cli.commands import main; main()"
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "300"}
    command = [sys.executable, "-c", code, "verify", str(doctored)]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=env) as program:
        os.close(terminal)
        shown = read_all(controller).decode()
    assert program.returncode == 1
    assert SHOWN in shown
    assert is_plain(shown.replace("\r\n", "\n"))


def read_all(controller):
    """All that a terminal showed until its last user went."""
    parts = []
    with os.fdopen(controller, "rb", buffering=0) as terminal:
        while True:
            try:
                parts.append(terminal.read(4096))
            except OSError:  # Linux's way to say that nobody is left
                return b"".join(parts)


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("command", ["plan", "annotate"])
def test_an_input_that_is_an_attack_is_refused_without_obeying_it(capsys, tmp_path, command, debug):
    code, out, err = run(capsys, command, "--input", f"/none/{EVIL}", "--output", tmp_path / "run", *debug)
    assert (code, out) == (2, "")
    assert is_plain(err)
    if not debug:
        assert err == f"error: input not found: /none/{SHOWN}\n"


def test_status_shows_an_input_on_one_line_and_does_not_obey_it(capsys, doctored):
    code, out, _ = run(capsys, "status", doctored)
    assert code == 0
    assert f" s3://bucket/{SHOWN}\n" in out
    assert is_plain(out)


def test_errors_and_their_tracebacks_are_plain_and_without_credentials(capsys, monkeypatch):
    def annotate(config, make_display, start_id):
        raise InputError(f"{EVIL} https://user:canary@host/a?sig=canary")

    monkeypatch.setattr(annotate_module, "annotate", annotate)
    for debug in ([], ["--debug"]):
        code, _, err = run(capsys, "annotate", "--output", "o", *debug)
        assert code == 2
        assert is_plain(err)
    assert "Traceback" in err
    assert "canary" not in err


def test_log_records_are_plain_lines_without_credentials():
    formatter = CleanFormatter()
    message = logging.LogRecord("sam_pipeline", logging.INFO, "", 1, "skipped %s", (EVIL,), None)
    assert formatter.format(message) == f"skipped {SHOWN}"
    secret = logging.LogRecord("urllib3", logging.WARNING, "", 1, "retry https://h/a?sig=canary", (), None)
    assert formatter.format(secret) == "retry https://h/a"


def test_a_progress_display_draws_with_its_own_escapes_only():
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=True, color_system="truecolor", width=200)
    with Progress(TextColumn("{task.fields[name]}", markup=False), console=console) as progress:
        progress.add_task("", name=f"{TITLE}{RED}{BIDI}", total=1)
    assert "\x1b[" in file.getvalue()
    for evil in (TITLE, RED, *BIDI):
        assert evil not in file.getvalue()


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a?X-Amz-Signature=canary",
        "s3://key:canary@bucket/a",
        "s3:/key:canary@bucket/a",
        "s3://key:a/canary@bucket/a",
        "s3://bucket/a#X-Amz-Signature=canary",
        "https://host/a?sig=canary",
        "zip://a::s3://canary",
    ],
)
@pytest.mark.parametrize(
    "command", [("plan", "--output", "{other}", "--input"), ("plan", "--output"), ("status",), ("verify",)]
)
def test_a_uri_with_a_credential_is_refused_without_showing_or_storing_it(capsys, tmp_path, command, uri, debug):
    arguments = [argument.format(other=tmp_path / "run") for argument in command]
    code, out, err = run(capsys, *arguments, uri, *debug)
    assert (code, out) == (2, "")
    assert "canary" not in err
    assert "must not" in err or "two slashes" in err or "cannot open 'https'" in err or "cannot open 'zip'" in err
    assert list(tmp_path.iterdir()) == []
