"""The command line: parse, call one function, print. `sam-pipeline COMMAND --help` documents every flag."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.logging import RichHandler
from rich.table import Table

from sam_pipeline import stopping, supervised, supervisor
from sam_pipeline.config import AnnotateConfig, PlanConfig
from sam_pipeline.config_files import config_flags
from sam_pipeline.errors import ConfigError, OutputError, SamPipelineError
from sam_pipeline.terminal import CleanFormatter, PlainConsole

_DESCRIPTION = """Dataset-scale Segment Anything: images in object storage in, a table of scored RLE masks out.

Every command also takes --debug (tracebacks and Ray's own log); annotate and plan take --config FILE (TOML or YAML
with flag names as keys; flags on the command line win).
Exit codes: 0 done; 1 verification or partial failure; 2 bad usage, input, output or weights; 3 a newer run took
over."""

_stdout = PlainConsole(markup=False, highlight=False)
_stderr = PlainConsole(stderr=True, markup=False, highlight=False)

app = tyro.extras.SubcommandApp()

_Output = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUTPUT")]]


@app.command
def annotate(config: Annotated[AnnotateConfig, tyro.conf.arg(name="")]) -> int:
    """Plan if there is no plan yet, then run; the same command resumes after a kill."""
    if supervisor.is_wanted():
        return supervisor.supervise(config.max_restarts)
    from sam_pipeline.pipeline.annotate import annotate as run_annotate
    from sam_pipeline.pipeline.progress import RichDisplay

    summary = run_annotate(config, lambda num_images, num_before: RichDisplay(num_images, num_before, _stderr))
    rows = {
        "output": summary.output,
        "images": f"{summary.num_images} ({_statuses(summary.num_by_status)})",
        "annotated now": summary.num_annotated,
        "masks": summary.num_masks,
        "time": timedelta(seconds=round(summary.elapsed_s)),
        "rate": f"{summary.num_annotated / summary.elapsed_s:.3f} images/s",
    }
    _print_table(rows)
    return 0


@app.command
def plan(config: Annotated[PlanConfig, tyro.conf.arg(name="")]) -> int:
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
def status(output: _Output, storage_options: str = "{}") -> int:
    """Show how far a run has come, from storage alone; works from any machine while it runs.

    Args:
        output: Folder of the run.
        storage_options: JSON object of fsspec options, as for annotate.
    """
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.mask_table import read_state
    from sam_pipeline.storage.plan_table import read_plan

    options = PlanConfig(output, storage_options=storage_options).parsed_storage_options
    made = read_plan(absolute_uri(output), options)
    if made is None:
        raise OutputError(f"no plan in {output}")
    rows: dict[str, object] = {"output": output, "input": made.input, "images": made.num_images}
    state = read_state(absolute_uri(output), options)
    if state is not None:
        left = made.num_images - state.num_by_status.total()
        rows |= {"done": f"{state.num_by_status.total()} ({_statuses(state.num_by_status)})", "left": left}
        rows |= {"masks": state.num_masks}
        if (rate := state.recent_rate()) is not None:
            rows |= {"rate": f"{rate:.3f} images/s"}
            if left:
                rows |= {"ETA": timedelta(seconds=round(left / rate))}
    _print_table(rows)
    return 0


@app.command
def verify(output: _Output, storage_options: str = "{}") -> int:
    """Check a finished output: every planned image exactly once, every mask decodes and fits its area and bbox.

    Args:
        output: Folder of the run.
        storage_options: JSON object of fsspec options, as for annotate.
    """
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.verify import verify as run_verify

    options = PlanConfig(output, storage_options=storage_options).parsed_storage_options
    result = run_verify(absolute_uri(output), options)
    rows = {
        "output": output,
        "planned": result.num_planned,
        "rows": result.num_rows,
        "masks": result.num_masks,
        "lost": result.num_lost,
        "twice": result.num_twice,
        "unsound": result.num_bad_masks,
    }
    _print_table(rows)
    for problem in result.problems:
        _stderr.print_line(problem)
    return 0 if result.ok else 1


@app.command
def retry(
    output: _Output, status: Annotated[tuple[str, ...], tyro.conf.arg(metavar="S [S ...]")], storage_options: str = "{}"
) -> int:
    """Delete the rows with some statuses, in one transaction, so that the next annotate does their images again.

    A run in progress is fenced by it: it stops with exit code 3, and the same command resumes it.

    Args:
        output: Folder of the run.
        status: Which rows: ok, fetch_error, decode_error, too_large, changed, worker_crashed.
        storage_options: JSON object of fsspec options, as for annotate.
    """
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.mask_table import delete_rows

    options = PlanConfig(output, storage_options=storage_options).parsed_storage_options
    num_rows = delete_rows(absolute_uri(output), status, options)
    _print_table({"output": output, "to do again": num_rows})
    return 0


@app.command
def vacuum(output: _Output, retention_hours: int = 168, storage_options: str = "{}") -> int:
    """Delete files that no committed version needs: what killed runs left, and what compaction replaced.

    A run in progress is fenced by it, lest it commit a file that is deleted: it stops with exit code 3, and the same
    command resumes it.

    Args:
        output: Folder of the run.
        retention_hours: Files younger than this are kept, at least 1: for readers that still use an older version.
        storage_options: JSON object of fsspec options, as for annotate.
    """
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.mask_table import vacuum as run_vacuum

    options = PlanConfig(output, storage_options=storage_options).parsed_storage_options
    num_files = run_vacuum(absolute_uri(output), retention_hours, options)
    _print_table({"output": output, "files removed": num_files})
    return 0


@app.command
def weights(
    action: tyro.conf.Positional[Literal["list", "fetch", "verify"]],
    models: tyro.conf.Positional[tuple[str, ...]] = (),
) -> int:
    """List, fetch or verify checkpoints in the cache (SAM_PIPELINE_CACHE).

    Args:
        action: What to do.
        models: Model types (vit_h, vit_l, vit_b, vit_t); for verify also paths. Default: vit_h; list shows all.
    """
    from sam_pipeline.model.checkpoints import checkpoint_status, fetch_checkpoint, verify_checkpoint

    if action == "list":
        table = Table("model type", "cached", "path", box=None)
        for item in checkpoint_status():
            table.add_row(item.model_type, "yes" if item.cached else "no", str(item.path))
        _stdout.print(table, soft_wrap=True)
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
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true")
    common.add_argument("--config", type=Path)
    given = sys.argv[1:] if argv is None else argv
    arguments, rest = common.parse_known_args(given)
    if supervised.is_supervised() and not arguments.debug:
        supervised.silence_libraries()
    handler = RichHandler(console=_stderr, show_time=False, show_path=False, show_level=False)
    handler.setFormatter(CleanFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Ours alone: at these levels botocore announces where it found credentials, and prints session tokens.
    logging.getLogger("sam_pipeline").setLevel(logging.DEBUG if arguments.debug else logging.INFO)
    try:
        _check_flags(given)
        if arguments.config is not None and rest:
            rest = [rest[0], *config_flags(rest[0], arguments.config), *rest[1:]]
        code = app.cli(prog="sam-pipeline", description=_DESCRIPTION, args=rest, config=(tyro.conf.OmitArgPrefixes,))
    except SamPipelineError as error:
        if arguments.debug:
            _stderr.print_traceback()
        else:
            _stderr.print_line(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        _stderr.print(stopping.last_words())
        code = stopping.exit_code()
    except SystemExit:  # tyro's, with a message of its own
        raise
    except BaseException as error:  # noqa: BLE001  whatever it is, also a panic of Rust: the user gets one line of it
        from sam_pipeline.clean_text import one_line

        if arguments.debug:
            _stderr.print_traceback()
        else:
            _stderr.print_line(f"unexpected {type(error).__name__}: {one_line(error)} (--debug shows the traceback)")
        code = 1
    sys.exit(code)


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


def _print_table(rows: Mapping[str, object]) -> None:
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        _stdout.print_line(f"{name:<{width}}  {value}")
