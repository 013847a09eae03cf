"""The command line: parse, call one function, print. `sam-pipeline COMMAND --help` documents every flag."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sam_pipeline.cli.amg import amg
from sam_pipeline.cli.arguments import check_flags, check_order, check_patterns, flag_value, with_config
from sam_pipeline.cli.export_onnx import export_onnx
from sam_pipeline.cli.flags import flags_of
from sam_pipeline.cli.help import COMMANDS, help_text
from sam_pipeline.cli.maintenance import retry, vacuum, verify
from sam_pipeline.cli.output.printing import STDERR, STDOUT, print_table, prompt_rows, statuses_text
from sam_pipeline.cli.plan import plan
from sam_pipeline.cli.readers.evaluate import evaluate
from sam_pipeline.cli.readers.export import export
from sam_pipeline.cli.readers.filter import filter_masks
from sam_pipeline.cli.readers.report import report, show, stats
from sam_pipeline.cli.status import runs, status
from sam_pipeline.config import AnnotateConfig
from sam_pipeline.errors import ConfigError, NothingSucceededError, SamPipelineError
from sam_pipeline.process import events, stopping, supervised, supervisor
from sam_pipeline.safety.terminal import CleanFormatter, LogHandler
from sam_pipeline.version import __version__

_DESCRIPTION = "Segment Anything masks for whole datasets: images in, a table of scored RLE masks out."

app = tyro.extras.SubcommandApp()

logger = logging.getLogger(__name__)


@app.command
def annotate(config: Annotated[AnnotateConfig, flags_of(AnnotateConfig)]) -> int:
    """Plan if there is no plan yet, then run; the same command resumes after a kill."""
    if supervisor.is_wanted():
        return supervisor.supervise(config.max_restarts)
    from sam_pipeline.pipeline.annotate import annotate as run_annotate
    from sam_pipeline.pipeline.progress import Display, EventDisplay, RichDisplay

    def make_display(num_images: int, num_before: int) -> Display:
        if events.are_used():
            return EventDisplay(num_images, num_before)
        return RichDisplay(num_images, num_before, STDERR)

    summary = run_annotate(config, make_display, start_id=supervised.start_id())
    outcome = summary.outcome
    rows = {
        "output": config.output,
        "images": f"{outcome.num_images} ({statuses_text(outcome.num_by_status)})",
        "annotated now": summary.num_annotated,
        **prompt_rows(outcome.num_planned, outcome.num_unusable),
        "masks": outcome.num_masks,
        "time": timedelta(seconds=round(summary.elapsed_s)),
        "rate": f"{summary.num_annotated / summary.elapsed_s:.3f} images/s",
    }
    figures: dict[str, object] = {
        "output": config.output,
        **events.ids(),
        "num_images": outcome.num_images,
        "num_by_status": outcome.num_by_status,
        "num_annotated": summary.num_annotated,
        "num_prompts": outcome.num_planned,
        "num_unusable_prompts": outcome.num_unusable,
        "num_masks": outcome.num_masks,
        "elapsed_s": summary.elapsed_s,
        "images_per_s": summary.num_annotated / summary.elapsed_s,
    }
    print_table(rows, figures)
    if outcome.total_failure is None:
        return 0
    raise NothingSucceededError(outcome.total_failure)


app.command(plan)
for _command in (status, runs, verify, retry, vacuum):
    app.command(_command)
app.command(name="filter")(filter_masks)
for _reader in (stats, report, show, evaluate, export, amg, export_onnx):
    app.command(_reader)


@app.command
def weights(
    action: tyro.conf.Positional[Literal["list", "fetch", "verify"]],
    models: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="[MODEL ...]", help_behavior_hint="")]
    ] = (),
) -> int:
    """List, fetch or verify checkpoints in the cache (SAM_PIPELINE_CACHE).

    Args:
        action: What to do.
        models: Model types (vit_h, vit_l, vit_b, vit_t); for verify also paths. Default: vit_h; list shows all.
    """
    from sam_pipeline.model.checkpoints import checkpoint_status, fetch_checkpoint, verify_checkpoint

    if action == "list":
        STDOUT.print("model type  cached  path")
        for item in checkpoint_status():
            STDOUT.print_line(f"{item.model_type:<10}  {'yes' if item.cached else 'no':<6}  {item.path}")
        return 0
    for model in models or ("vit_h",):
        path = fetch_checkpoint(model) if action == "fetch" else verify_checkpoint(model)
        STDOUT.print_line(path)
    return 0


@stopping.ends_on_signals
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sam-pipeline` and of the scripts in jobs/; exits the process.

    Args:
        argv: a command line, run in this process. By default that of the process, in a supervised child where needed.
    """
    supervised.accept_supervision(stopping.SIGNALS)
    supervisor.want(argv is None and not supervised.is_supervised())
    common = argparse.ArgumentParser("sam-pipeline", add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true")
    common.add_argument("--config", type=Path)
    common.add_argument("--version", action="store_true")
    common.add_argument("--log-format", choices=("text", "json"), default="text")
    given = sys.argv[1:] if argv is None else argv
    arguments, rest = common.parse_known_args(given)
    as_events = arguments.log_format == "json"
    if supervised.is_supervised() and (as_events or not arguments.debug):
        supervised.silence_libraries()
    if as_events:
        events.use_events()
    else:
        handler = LogHandler(STDERR)
        handler.setFormatter(CleanFormatter())
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Ours alone: at these levels botocore announces where it found credentials, and prints session tokens.
    logging.getLogger("sam_pipeline").setLevel(logging.DEBUG if arguments.debug else logging.INFO)
    try:
        _name_start(rest)
        if arguments.version:
            STDOUT.print(f"sam-pipeline {__version__}")
            code = 0
        elif {"-h", "--help"} & set(rest):
            code = _help(rest)
        else:
            check_flags(given)
            check_order(rest)
            if arguments.config is not None:
                rest = with_config(rest, arguments.config)
                _name_start(rest)
            check_patterns(rest)
            code = _run(rest)
    except SamPipelineError as error:
        _say_error(f"error: {error}", with_traceback=arguments.debug)
        code = error.exit_code
    except KeyboardInterrupt:
        if words := stopping.last_words():
            say = logger.warning if events.are_used() else STDERR.print
            say(words)
        code = stopping.exit_code()
    except SystemExit:  # tyro's, with a message of its own
        raise
    except BaseException as error:  # noqa: BLE001  whatever it is, also a panic of Rust: the user gets one line of it
        from sam_pipeline.safety.clean_text import one_line

        unexpected = f"unexpected {type(error).__name__}: {one_line(error)} (--debug shows the traceback)"
        _say_error(unexpected, with_traceback=arguments.debug)
        code = 1
    sys.exit(code)


def _name_start(arguments: Sequence[str]) -> None:
    """Give events the ids of a run and a start before anything is parsed, so that the first event has them too."""
    command, output = arguments[0] if arguments else "", flag_value(arguments, "--output")
    if not events.are_used() or command not in ("annotate", "plan") or output is None:
        return
    from sam_pipeline.storage.objects.filesystem import absolute_uri
    from sam_pipeline.storage.run_ids import run_id

    with suppress(ConfigError):  # which is raised again where there is more to say about it
        events.name(run_id=run_id(absolute_uri(output)))
    if command == "annotate":
        events.name(start_id=supervised.start_id())


def _say_error(line: str, *, with_traceback: bool) -> None:
    """Print what ends the program: one line, or the traceback in its place; an event has both."""
    if events.are_used():
        logger.error("%s", line.removeprefix("error: "), exc_info=with_traceback)
    elif with_traceback:
        STDERR.print_traceback()
    else:
        STDERR.print_line(line)


def _run(arguments: Sequence[str]) -> int:
    """Parse, and run the command."""
    code: int = app.cli(
        prog="sam-pipeline", description=_DESCRIPTION, args=arguments, config=(tyro.conf.OmitArgPrefixes,)
    )
    return code


def _help(arguments: Sequence[str]) -> int:
    """Print the help of the command among the arguments, or of the program; no other argument is looked at."""
    command: str | None = arguments[0]
    if arguments[0].startswith("-"):
        command = next((word for word in arguments if word in COMMANDS), None)
    elif command not in COMMANDS:
        return _run([arguments[0]])  # which refuses it
    shown = ["--help"] if command is None else [command, "--help"]
    STDOUT.print(help_text(command, lambda: _run(shown)), soft_wrap=True)
    return 0
