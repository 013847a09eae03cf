"""The command line: parse, call one function, print. `sam-pipeline COMMAND --help` documents every flag."""

from __future__ import annotations

import argparse
import itertools
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sam_pipeline.cli.flags import NO_OPTIONS, JsonObject, flags_of
from sam_pipeline.cli.help import COMMANDS, help_text
from sam_pipeline.config import AnnotateConfig, PlanConfig
from sam_pipeline.config.files import config_flags
from sam_pipeline.errors import ConfigError, NothingSucceededError, OutputError, SamPipelineError
from sam_pipeline.process import stopping, supervised, supervisor
from sam_pipeline.safety.terminal import CleanFormatter, LogHandler, PlainConsole
from sam_pipeline.version import __version__

_DESCRIPTION = "Segment Anything masks for whole datasets: images in, a table of scored RLE masks out."

_stdout = PlainConsole(markup=False, highlight=False)
_stderr = PlainConsole(stderr=True, markup=False, highlight=False)

app = tyro.extras.SubcommandApp()

_PLACES = ("--input", "--output", "--image-root", "--prompts", "--prompt-images", "--regions")

_Output = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUTPUT")]]


@app.command
def annotate(config: Annotated[AnnotateConfig, flags_of(AnnotateConfig)]) -> int:
    """Plan if there is no plan yet, then run; the same command resumes after a kill."""
    if supervisor.is_wanted():
        return supervisor.supervise(config.max_restarts)
    from sam_pipeline.pipeline.annotate import annotate as run_annotate
    from sam_pipeline.pipeline.progress import RichDisplay

    summary = run_annotate(config, lambda num_images, num_before: RichDisplay(num_images, num_before, _stderr))
    outcome = summary.outcome
    rows = {
        "output": config.output,
        "images": f"{outcome.num_images} ({_statuses(outcome.num_by_status)})",
        "annotated now": summary.num_annotated,
        **_prompts(outcome.num_planned, outcome.num_unusable),
        "masks": outcome.num_masks,
        "time": timedelta(seconds=round(summary.elapsed_s)),
        "rate": f"{summary.num_annotated / summary.elapsed_s:.3f} images/s",
    }
    _print_table(rows)
    if outcome.total_failure is None:
        return 0
    raise NothingSucceededError(outcome.total_failure)


@app.command
def plan(config: Annotated[PlanConfig, flags_of(PlanConfig)]) -> int:
    """List the input once and freeze it, and the prompts if any, without annotating anything."""
    from sam_pipeline.pipeline.plan import ensure_plan
    from sam_pipeline.pipeline.targets import ensure_prompts

    made = ensure_plan(config)
    rows: dict[str, object] = {"output": config.output, "input": made.input, "images": made.num_images}
    if (prompts := ensure_prompts(config, made)) is not None:
        rows |= {"prompts": prompts.num_prompts, "regions": prompts.num_regions}
    _print_table(rows)
    return 0


@app.command
def status(output: _Output, storage_options: JsonObject = NO_OPTIONS) -> int:
    """Show how far a run has come, from storage alone; works from any machine while it runs.

    Args:
        output: Folder of the run.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.maintenance.status import count_unusable, read_state
    from sam_pipeline.storage.objects.filesystem import absolute_uri
    from sam_pipeline.storage.tables.plan import read_plan
    from sam_pipeline.storage.tables.prompts import read_prompts_header

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
    # Before the plan: another start may extend the plan and add rows to the results.
    state = read_state(absolute_uri(output), options)
    made = read_plan(absolute_uri(output), options)
    if made is None:
        raise OutputError(f"no plan in {output}")
    rows: dict[str, object] = {"output": output, "input": made.input, "images": made.num_images}
    if state is not None:
        left = made.num_images - state.num_by_status.total()
        rows |= {"done": f"{state.num_by_status.total()} ({_statuses(state.num_by_status)})", "left": left}
        if (prompts := read_prompts_header(absolute_uri(output), options, made.generation)) is not None:
            num_planned = {"prompt": prompts.num_prompts, "region": prompts.num_regions}
            rows |= _prompts(num_planned, count_unusable(absolute_uri(output), options))
        rows |= {"masks": state.num_masks}
        if (rate := state.recent_rate()) is not None:
            rows |= {"rate": f"{rate:.3f} images/s"}
            if left:
                rows |= {"ETA": timedelta(seconds=round(left / rate))}
    _print_table(rows)
    return 0


@app.command
def verify(output: _Output, storage_options: JsonObject = NO_OPTIONS) -> int:
    """Check the results: every planned image exactly once, every mask decodes and fits its area and bbox.

    Args:
        output: Folder of the run.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.maintenance.verify import verify as run_verify
    from sam_pipeline.storage.objects.filesystem import absolute_uri

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
    result = run_verify(absolute_uri(output), options)
    rows = {
        "output": output,
        "planned": result.num_planned,
        "rows": result.num_rows,
        "masks": result.num_masks,
        "left": result.num_left,
        "lost": result.num_lost,
        "twice": result.num_twice,
        "unsound": result.num_bad_masks,
    }
    _print_table(rows)
    for problem in result.problems:
        _stderr.print_line(problem)
    if result.is_repairable:
        again = f"sam-pipeline retry {shlex.quote(output)} --damaged"
        _stderr.print_line(f"to have what is damaged or unsound done again: {again}, and then annotate")
    return 0 if result.ok else 1


@app.command
def retry(
    output: _Output,
    status: Annotated[tuple[str, ...], tyro.conf.arg(metavar="S [S ...]", help_behavior_hint="")] = (),
    damaged: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False,
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Delete rows, so that the next annotate does their images again.

    Args:
        output: Folder of the run.
        status: Rows with these statuses: ok, fetch_error, decode_error, too_large, changed, worker_crashed.
        damaged: What verify finds missing, damaged or unsound. Reads the whole output.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.maintenance.verify import retry_damaged
    from sam_pipeline.storage.objects.filesystem import absolute_uri
    from sam_pipeline.storage.tables.results import check_statuses, delete_rows

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
    if not status and not damaged:
        raise ConfigError("say which rows to delete: --status S [S ...], --damaged, or both")
    if status:
        check_statuses(status)
    num_rows = retry_damaged(absolute_uri(output), options) if damaged else 0
    if status:
        num_rows += delete_rows(absolute_uri(output), status, options)
    _print_table({"output": output, "to do again": num_rows})
    return 0


@app.command
def vacuum(output: _Output, retention_hours: int = 168, storage_options: JsonObject = NO_OPTIONS) -> int:
    """Delete files that no committed version needs: what killed runs left, and what compaction replaced.

    Only files that this program wrote are deleted.

    Args:
        output: Folder of the run.
        retention_hours: Files younger than this are kept, at least 1: for readers that still use an older version.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.maintenance.vacuum import vacuum as run_vacuum
    from sam_pipeline.storage.objects.filesystem import absolute_uri

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
    done = run_vacuum(absolute_uri(output), retention_hours, options)
    rows: dict[str, object] = {"output": output, "files removed": done.num_removed}
    if done.num_foreign:
        rows["left alone"] = f"{done.num_foreign} files or folders that this program did not write"
    _print_table(rows)
    return 0


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
        _stdout.print("model type  cached  path")
        for item in checkpoint_status():
            _stdout.print_line(f"{item.model_type:<10}  {'yes' if item.cached else 'no':<6}  {item.path}")
        return 0
    for model in models or ("vit_h",):
        path = fetch_checkpoint(model) if action == "fetch" else verify_checkpoint(model)
        _stdout.print_line(path)
    return 0


@stopping.ends_on_signals
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sam-pipeline` and of the scripts in jobs/; exits the process.

    Args:
        argv: a command, to run in this process alone. By default that of the process, supervised where it needs to be.
    """
    supervised.accept_supervision(stopping.SIGNALS)
    supervisor.want(argv is None and not supervised.is_supervised())
    common = argparse.ArgumentParser("sam-pipeline", add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true")
    common.add_argument("--config", type=Path)
    common.add_argument("--version", action="store_true")
    given = sys.argv[1:] if argv is None else argv
    arguments, rest = common.parse_known_args(given)
    if supervised.is_supervised() and not arguments.debug:
        supervised.silence_libraries()
    handler = LogHandler(_stderr)
    handler.setFormatter(CleanFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Ours alone: at these levels botocore announces where it found credentials, and prints session tokens.
    logging.getLogger("sam_pipeline").setLevel(logging.DEBUG if arguments.debug else logging.INFO)
    try:
        if arguments.version:
            _stdout.print(f"sam-pipeline {__version__}")
            code = 0
        elif {"-h", "--help"} & set(rest):
            code = _help(rest)
        else:
            _check_flags(given)
            _check_order(rest)
            if arguments.config is not None:
                rest = _with_config(rest, arguments.config)
            _check_patterns(rest)
            code = _run(rest)
    except SamPipelineError as error:
        if arguments.debug:
            _stderr.print_traceback()
        else:
            _stderr.print_line(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        if words := stopping.last_words():
            _stderr.print(words)
        code = stopping.exit_code()
    except SystemExit:  # tyro's, with a message of its own
        raise
    except BaseException as error:  # noqa: BLE001  whatever it is, also a panic of Rust: the user gets one line of it
        from sam_pipeline.safety.clean_text import one_line

        if arguments.debug:
            _stderr.print_traceback()
        else:
            _stderr.print_line(f"unexpected {type(error).__name__}: {one_line(error)} (--debug shows the traceback)")
        code = 1
    sys.exit(code)


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
    _stdout.print(help_text(command, lambda: _run(shown)), soft_wrap=True)
    return 0


def _check_order(arguments: Sequence[str]) -> None:
    """Refuse flags before the command.

    Raises:
        ConfigError: naming the first.
    """
    if arguments and arguments[0].startswith("-"):
        flag = arguments[0].partition("=")[0]
        raise ConfigError(f"the command comes before its flags: sam-pipeline {{{','.join(COMMANDS)}}} {flag} …")


def _with_config(arguments: Sequence[str], path: Path) -> list[str]:
    """The settings of a file before the flags of the command, which win over them.

    Raises:
        ConfigError: the command takes no settings, or the file cannot be used.
    """
    if not arguments:
        return []
    command, *flags = arguments
    if command in COMMANDS and command not in ("annotate", "plan"):
        raise ConfigError(f"--config is for annotate and plan; {command} takes no settings from a file")
    return [command, *config_flags(command, path), *flags]


def _check_patterns(flags: Sequence[str]) -> None:
    """Refuse several values where one is meant: most often the shell put the files in the place of a pattern.

    Raises:
        ConfigError: saying how a pattern is written.
    """
    for position, flag in enumerate(flags):
        if flag in _PLACES:
            values = list(itertools.takewhile(lambda value: not value.startswith("-"), flags[position + 1 :]))
            if len(values) > 1:
                raise ConfigError(
                    f"{flag} takes one value, got {len(values)} ({values[0]} {values[1]} …): put a pattern in quotes, "
                    f"as in {flag} 'photos/*.jpg', or else the shell puts the files in its place"
                )


def _check_flags(arguments: Sequence[str]) -> None:
    """Refuse a flag that is given twice, of which the last would count in silence.

    Raises:
        ConfigError: naming the flag.
    """
    given: set[str] = set()
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            continue
        flag = argument.partition("=")[0].replace("_", "-")
        name = flag.removeprefix("--no-").removeprefix("--")
        if name in given:
            raise ConfigError(f"--{name} is given twice; give it once, with all its values")
        given.add(name)


def _statuses(num_by_status: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(num_by_status.items(), key=lambda item: -item[1]))


def _prompts(num_planned: Mapping[str, int], num_unusable: Mapping[str, int]) -> dict[str, object]:
    """Rows of a summary: how many prompts and regions a run has, and how many of them are in prompt_errors."""
    return {
        f"{role}s": f"{count} ({num_unusable.get(role, 0)} unusable)" for role, count in num_planned.items() if count
    }


def _print_table(rows: Mapping[str, object]) -> None:
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        _stdout.print_line(f"{name:<{width}}  {value}")
