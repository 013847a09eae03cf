"""The console and the log: what goes to a file is one line a record, and a reader that goes away is no error."""

import io
import logging
import subprocess
import sys

import pytest

from sam_pipeline.safety.terminal import CleanFormatter, LogHandler, PlainConsole

LONG = "a line that is longer than eighty columns, " * 4


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_record_is_one_line_neither_wrapped_nor_padded(is_terminal):
    written = io.StringIO()
    handler = LogHandler(PlainConsole(file=written, width=80, force_terminal=is_terminal))
    handler.setFormatter(CleanFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("short")
    logger.warning("%s", LONG + "\nend [bold]")
    assert written.getvalue() == f"short\n{LONG}\ufffdend [bold]\n"


@pytest.mark.parametrize("text", ["in:dog:1.jpg", ":x: [red]a[/red]", '{"e": "a:100:b"}'])
def test_text_is_printed_as_it_is(text):
    written = io.StringIO()
    console = PlainConsole(file=written, width=80)
    console.print_line(text)
    console.print(text)
    assert written.getvalue() == f"{text}\n{text}\n"


SCRIPT = "import sys; from sam_pipeline.cli.commands import main; main(sys.argv[1:])"


@pytest.mark.parametrize("arguments", [["annotate", "--help"], ["--version"], ["weights", "list"]])
def test_a_reader_that_goes_away_ends_the_program_without_a_word(arguments):
    command = [sys.executable, "-c", SCRIPT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        program.stdout.close()
        errors = program.stderr.read()
        assert (program.wait(timeout=60), errors) == (141, "")


def test_without_a_reader_of_standard_error_the_program_goes_on():
    code = (
        "from sam_pipeline.safety.terminal import PlainConsole; console = PlainConsole(stderr=True)\n"
        "for _ in range(3): console.print('progress')\n"
        "print('done')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stderr.close()
        assert program.stdout.read() == b"done\n"
        assert program.wait(timeout=60) == 0
