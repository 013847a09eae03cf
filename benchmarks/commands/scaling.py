"""Whether more decoders do more: 1, 2 and 4 of an engine that sleeps over each image, on one machine and on three.

The run is that of the benchmark of orchestration. Sleeping takes no CPU, so that all nodes may be on this machine; what
is shown is that the graph keeps every decoder busy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.commands.orchestration import measure
from benchmarks.measured.orchestration_run import Setup
from benchmarks.report import print_table, write_result

_ACTORS = (1, 2, 4)
_NODES = (1, 3)
_CPUS = 12


def main(arguments: Sequence[str]) -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(
        "benchmark scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=60, help="for each decoder")
    parser.add_argument("--decode-s", type=float, default=0.5, help="what a decoder sleeps over an image")
    parser.add_argument("--name", default="scaling", help="of the result file")
    options = parser.parse_args(arguments)
    setup = Setup(
        images=options.images,
        cpus=_CPUS,
        gpus=0,
        crop_size=96,
        embedding_bytes=64,
        batch_size=1,
        shard_rows=4,
        object_store_bytes=2**30,
        unread=False,
        limit_s=None,
        decode_s=options.decode_s,
        decode_actors=1,
        nodes=1,
    )
    runs = [
        _rate(replace(setup, images=options.images * actors, decode_actors=actors, nodes=nodes))
        for nodes in _NODES
        for actors in _ACTORS
    ]
    rows = []
    for run in runs:
        (one,) = (other for other in runs if (other["nodes"], other["decode_actors"]) == (run["nodes"], 1))
        run["times_one"] = run["images_per_s"] / one["images_per_s"]
        figures = (f"{run['images_per_s']:.2f}", f"{run['times_one']:.2f}")
        rows.append((f"{run['nodes']}", f"{run['decode_actors']}", *figures))
    print_table(("machines", "decoders", "images/s", "times one decoder"), rows)
    write_result(options.name, {"decode_s": options.decode_s, "runs": runs})


def _rate(setup: Setup) -> dict[str, Any]:
    result = measure(setup)
    return {"nodes": setup.nodes, "decode_actors": setup.decode_actors, "images_per_s": result["images_per_s"]}
