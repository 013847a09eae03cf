"""The command line: parse, call one function, print. `sam-pipeline COMMAND --help` documents every flag."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from sam_pipeline.cli_flags import NO_OPTIONS, JsonObject, flags_of
from sam_pipeline.cli_help import help_text
from sam_pipeline.config import AnnotateConfig, PlanConfig
from sam_pipeline.errors import ConfigError, OutputError, SamPipelineError
from sam_pipeline.terminal import CleanFormatter, LogHandler, PlainConsole
from sam_pipeline.version import __version__

_DESCRIPTION = "Segment Anything masks for whole datasets: images in, a table of scored RLE masks out."

_stdout = PlainConsole(markup=False, highlight=False)
_stderr = PlainConsole(stderr=True, markup=False, highlight=False)

app = tyro.extras.SubcommandApp()

_Output = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUTPUT")]]


@app.command
def annotate(config: Annotated[AnnotateConfig, flags_of(AnnotateConfig)]) -> int:
    """Plan if there is no plan yet, then run; the same command resumes after a kill."""
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
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.mask_table import read_state
    from sam_pipeline.storage.plan_table import read_plan

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
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
def verify(output: _Output, storage_options: JsonObject = NO_OPTIONS) -> int:
    """Check the results: every planned image exactly once, every mask decodes and fits its area and bbox.

    Args:
        output: Folder of the run.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.verify import verify as run_verify

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
    return 0 if result.ok else 1


@app.command
def retry(
    output: _Output,
    status: Annotated[tuple[str, ...], tyro.conf.arg(metavar="S [S ...]")],
    storage_options: JsonObject = NO_OPTIONS,
) -> int:
    """Delete the rows with some statuses, in one transaction, so that the next annotate does their images again.

    Args:
        output: Folder of the run.
        status: Which rows: ok, fetch_error, decode_error, too_large, changed, worker_crashed.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.mask_table import delete_rows

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
    num_rows = delete_rows(absolute_uri(output), status, options)
    _print_table({"output": output, "to do again": num_rows})
    return 0


@app.command
def vacuum(output: _Output, retention_hours: int = 168, storage_options: JsonObject = NO_OPTIONS) -> int:
    """Delete files that no committed version needs: what killed runs left, and what compaction replaced.

    Args:
        output: Folder of the run.
        retention_hours: Files younger than this are kept, at least 1: for readers that still use an older version.
        storage_options: Options of fsspec, as for annotate.
    """
    from sam_pipeline.storage.filesystem import absolute_uri
    from sam_pipeline.storage.mask_table import vacuum as run_vacuum

    options = PlanConfig(output=output, storage_options=storage_options).storage_options
    num_files = run_vacuum(absolute_uri(output), retention_hours, options)
    _print_table({"output": output, "files removed": num_files})
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


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sam-pipeline` and of the scripts in jobs/; exits the process."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true")
    common.add_argument("--config", type=Path)
    common.add_argument("--version", action="store_true")
    arguments, rest = common.parse_known_args(sys.argv[1:] if argv is None else argv)
    handler = LogHandler(_stderr)
    handler.setFormatter(CleanFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Ours alone: at these levels botocore announces where it found credentials, and prints session tokens.
    logging.getLogger("sam_pipeline").setLevel(logging.DEBUG if arguments.debug else logging.INFO)
    try:
        if arguments.config is not None and rest:
            rest = [rest[0], *_config_flags(rest[0], arguments.config), *rest[1:]]
        if arguments.version:
            _stdout.print(f"sam-pipeline {__version__}")
            code = 0
        elif {"-h", "--help"} & set(rest):
            _stdout.print(help_text(rest[0], lambda: _run(rest)), soft_wrap=True)
            code = 0
        else:
            code = _run(rest)
    except SamPipelineError as error:
        if arguments.debug:
            _stderr.print_traceback()
        else:
            _stderr.print_line(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        _stderr.print("interrupted; the same command resumes")
        code = 130
    except Exception as error:  # noqa: BLE001  whatever it is, the user gets one line of it
        from sam_pipeline.clean_text import one_line

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


def _config_flags(command: str, path: Path) -> list[str]:
    """The settings of a file as flags, so that both go through the same checks; keys are flag names.

    Raises:
        ConfigError: the file cannot be read, or a key is no setting.
    """
    settings = {key.replace("-", "_"): value for key, value in _read_config(path).items()}
    known = _setting_names(AnnotateConfig)
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"unknown settings in {path}: {', '.join(unknown)}")
    taken = _setting_names(PlanConfig) if command == "plan" else known
    flags = []
    for name in settings.keys() & taken:
        flag, value = name.replace("_", "-"), settings[name]
        if value is None:
            continue  # as if it were not there
        if isinstance(value, bool):
            flags += [f"--{flag}" if value else f"--no-{flag}"]
        elif isinstance(value, list):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return flags


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        settings = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold settings by name")
    return settings


def _setting_names(config_class: type) -> set[str]:
    names: set[str] = set()
    for item in dataclasses.fields(config_class):
        factory = item.default_factory
        names |= _setting_names(factory) if dataclasses.is_dataclass(factory) else {item.name}
    return names


def _statuses(num_by_status: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(num_by_status.items(), key=lambda item: -item[1]))


def _print_table(rows: Mapping[str, object]) -> None:
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        _stdout.print_line(f"{name:<{width}}  {value}")
