"""The benchmarks: `python -m jobs.benchmark [COMMAND] [--help]`.

generator, the default COMMAND and what `make bench` runs: the whole generator beside the official one and peers.
fidelity: do we find the official masks, on thirty photographs. precision: what half precision changes in ours. curves:
time against points, image size, batch and threads. encoder: the image encoder alone. pipeline: the whole pipeline
beside the bare engine. planning: listing a million images. orchestration: what the graph itself costs, with an engine
that computes nothing. scaling: whether more decoders do more. prompts: the boxes of a detector beside the official
predictor. reading: what an image costs the CPU on its way to and from the encoder. finish: the CPU half of decoding.
kernels: what the compiler says of the kernels for GPUs. estimate: what they would take on an H200. launches: how many
an image takes there. masks_in_use: filter, stats, export and datasets of a large run. run_estimates: plan --estimate
beside the run itself. Each prints a table and writes JSON to benchmarks/results/. On a GPU: tests/gpu/measure.sh.
"""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = ("generator", "fidelity", "curves", "encoder", "pipeline", "planning", "orchestration", "prompts", "reading")
COMMANDS += ("finish", "kernels", "estimate", "launches", "masks_in_use", "precision", "scaling", "run_estimates")


def main() -> None:
    """Run one benchmark."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "generator"
    import_module(f"benchmarks.commands.{command}").main(arguments)


if __name__ == "__main__":
    main()
