"""Help of the commands: what tyro writes of their flags, in the width of the terminal, and examples below it."""

from __future__ import annotations

import contextlib
import io
import shutil
import textwrap
from collections.abc import Callable

_OVERVIEW = """\
The program also takes
  --version      show the version
every command takes
  --debug        show tracebacks and Ray's own log
  --log-format json
                 standard error as JSON, one event a line, with ids of the run
                 and of the start; the result as one JSON object
and annotate and plan take
  --config FILE  read settings by name from TOML or YAML; flags win over them

Examples:
  sam-pipeline annotate --input photos/ --output run
  sam-pipeline status run
  sam-pipeline verify run
  sam-pipeline annotate --help

Exit codes:
  0  done
  1  the run stopped, nothing succeeded, or verify found something
  2  bad usage, settings, input, output or weights, or no cluster
  3  a newer start, or retry or vacuum, took over the output
  130, 143, 129  ended by SIGINT (Ctrl-C), SIGTERM or SIGHUP
"""

_EXAMPLES = {
    "annotate": """\
A start that resumes a run takes from it the settings that decide masks, unless you give them. A setting that differs
from the run's is refused. Give all other settings again, such as --storage-options and time-outs.

Examples:
  sam-pipeline annotate --input photos/ --output run --model-type vit_t
  sam-pipeline annotate --output run
  sam-pipeline annotate --config settings.toml --output s3://bucket/masks
  sam-pipeline annotate --input photos/ --output run --extend
  sam-pipeline annotate --input photos/ --output boxes --prompts detections.json
""",
    "plan": """\
Flags of annotate, and prices, are taken only with --estimate. Prices may be in the file of --config.

Examples:
  sam-pipeline plan --input s3://bucket/photos/ --output s3://bucket/masks
  sam-pipeline annotate --output s3://bucket/masks --model-type vit_t
  sam-pipeline plan --estimate --output s3://bucket/masks --model-type vit_t --price-node-hour 2.5
""",
    "status": """\
With --watch it ends when no image is left.

Examples:
  sam-pipeline status s3://bucket/masks
  sam-pipeline status s3://bucket/masks --watch
  sam-pipeline status s3://bucket/masks --json
""",
    "runs": """\
Examples:
  sam-pipeline runs s3://bucket/masks
  sam-pipeline runs s3://bucket/masks --json
""",
    "verify": """\
Ends with exit code 1 if anything is wrong, or left to do.

Example:
  sam-pipeline verify s3://bucket/masks
""",
    "retry": """\
It stops a run in progress, with exit code 3. The same annotate command resumes the run.

Examples:
  sam-pipeline retry run --status fetch_error worker_crashed
  sam-pipeline retry run --damaged
  sam-pipeline annotate --output run
""",
    "vacuum": """\
It stops a run in progress, with exit code 3. The same annotate command resumes the run.

Example:
  sam-pipeline vacuum run --retention-hours 24
""",
    "filter": """\
Annotate once with loose thresholds, and choose afterwards. A value looser than the run's own is refused. After a kill
the same command goes on.

Examples:
  sam-pipeline filter run --into best --pred-iou-thresh 0.95 --min-area 100
  sam-pipeline filter run --into parts --drop-contained parts --drop-border
  sam-pipeline filter s3://bucket/masks --into s3://bucket/cats --category-ids 17 --include 'train/*.jpg'
""",
    "stats": """\
Examples:
  sam-pipeline stats run
  sam-pipeline stats run --pred-iou-thresh 0.95 --min-area 100
  sam-pipeline stats s3://bucket/masks --json
""",
    "report": """\
Examples:
  sam-pipeline report run masks.html
  sam-pipeline report s3://bucket/masks s3://bucket/masks.html --gallery 60
  sam-pipeline report run review.html --review --overwrite
""",
    "show": """\
Examples:
  sam-pipeline show run --image 3 --to 3.png
  sam-pipeline show run --image photos/cat.jpg --to cat.jpg --min-area 400
""",
    "evaluate": """\
Images are found by the file_name of the ground truth; an image that failed counts as one without masks. Masks of a grid
are compared without categories. Needs faster-coco-eval: pip install 'sam-pipeline[eval]'.

Examples:
  sam-pipeline evaluate run --ground-truth instances.json
  sam-pipeline evaluate run --ground-truth instances.json --iou mask --rank-by mean
  sam-pipeline evaluate run --ground-truth instances.json --pred-iou-thresh 0.95 --csv images.csv --json figures.json
""",
    "export": """\
The destination is a folder that is empty, or not there yet. Parts that are written are noted in it: after a kill the
same command goes on.

Examples:
  sam-pipeline export run coco --format coco
  sam-pipeline export run best --format coco --pred-iou-thresh 0.95 --min-area 100
  sam-pipeline export run s3://bucket/coco --format coco --split 0.9 --seed 7
  sam-pipeline export run shards --format coco --shard-images 10000
  sam-pipeline export run results --format coco-results
""",
    "amg": """\
Takes the flags of scripts/amg.py of segment_anything, and writes the same files. A broken image is left out.
For many images, archives, buckets, or work that can be resumed, use annotate.

Examples:
  sam-pipeline amg --input photos/ --output masks --model-type vit_t
  sam-pipeline amg --input photo.jpg --output masks --model-type vit_b \\
    --checkpoint sam_vit_b_01ec64.pth --convert-to-rle --points-per-side 16
""",
    "export-onnx": """\
Needs the packages onnx and onnxruntime: pip install 'sam-pipeline[onnx]'.

Examples:
  sam-pipeline export-onnx --model-type vit_t --output decoder.onnx
  sam-pipeline export-onnx --model-type vit_b --checkpoint sam_vit_b_01ec64.pth \\
    --output decoder.onnx --return-single-mask --quantize-out decoder_int8.onnx
""",
    "weights": """\
Examples:
  sam-pipeline weights list
  sam-pipeline weights fetch vit_h vit_t
  sam-pipeline weights verify vit_h
""",
}


COMMANDS = tuple(_EXAMPLES)
"""The names of all commands."""


def help_text(command: str | None, print_flags: Callable[[], object]) -> str:
    """The help of a command, or of the program.

    Args:
        command: its name; None for the program.
        print_flags: prints what tyro has to say, and may exit.
    """
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        print_flags()
    width = shutil.get_terminal_size().columns
    below = _OVERVIEW if command is None else _EXAMPLES[command]
    lines = [line for text in (written.getvalue(), below) for line in text.splitlines()]
    return "\n".join(_wrapped(line.rstrip(), width) for line in lines)


def _wrapped(line: str, width: int) -> str:
    # tyro wraps the table of flags, but neither the usage nor the description.
    indent = "  " if line.startswith("usage:") else ""
    if len(line) <= width:
        return line
    if indent:
        line = line.replace(",", ", ")  # between the names of commands
    return textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
