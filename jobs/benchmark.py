"""Our generator and the official one side by side on photographs, with MobileSAM's weights: `make bench`.

Each run is a process of its own, the contenders take turns, and figures are medians. Needs the development
dependencies. Prints a table and writes JSON to tests/benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import skimage

from tests.benchmarks.report import agreement, machine, print_table

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
RESULTS = Path("tests/benchmarks/results")


def run(name: str, image: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One contender on one image, in its own process."""
    command = [sys.executable, "-m", "tests.benchmarks.contender", name, str(image), json.dumps(settings)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*", default=[PHOTOGRAPHS / "coffee.png"], help="photographs")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of mask settings, official defaults")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender on each image")
    parser.add_argument("--name", default="generator", help="of the result file")
    arguments = parser.parse_args()
    rows = []
    for image in arguments.images:
        runs = [
            {name: run(name, image, arguments.settings) for name in ("official", "ours")} for _ in range(arguments.runs)
        ]
        median = {
            f"{name}_{key}": statistics.median(one[name][key] for one in runs)
            for name in ("official", "ours")
            for key in ("seconds", "peak_bytes")
        }
        ratio = statistics.median(one["official"]["seconds"] / one["ours"]["seconds"] for one in runs)
        rows.append({"image": image.name, **median, "speedup": ratio, **agreement(runs[0])})
    print_table(rows)
    result = {"machine": machine(), "command": sys.argv, "settings": arguments.settings, "rows": rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
