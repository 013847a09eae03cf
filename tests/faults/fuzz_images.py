"""Damages sound image files in thousands of ways and decodes them, to see that each ends as pixels or as an error.

    python -m tests.faults.fuzz_images --mutations 20000 --seed 1 --output fuzz.json

Files are decoded in processes of their own, which are replaced when they die or hang. What a file took is its CPU
time and the growth of its process's memory. Mutation number i depends on the seed and i alone. The exit code is 1 if
a file crashed its process, made it hang, raised another exception than the two that are allowed, or took too much;
such files are kept in --keep.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import signal
import struct
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, decode_image
from tests.storage.image_files import variants

MAX_PIXELS = AnnotateConfig.max_pixels
MAX_CPU_S = 10.0
MAX_GROWTH_BYTES = 10**9
# A process that is alive after this long hangs; other work on the machine slows a sound one down too.
PATIENCE_S = 60.0

EXTREMES = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x3FFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000)
EXTREMES += (0xFFFFFFFE, 0xFFFFFFFF)


class Mutation(NamedTuple):
    """A damaged file, and how it came about."""

    origin: str
    data: bytes


class Measured(NamedTuple):
    """What decoding one file came to: the outcome in a word, details, and what it took."""

    outcome: str
    detail: str
    cpu_s: float
    growth_bytes: int


@dataclass
class Report:
    """Counts by outcome, the costliest files, and those that failed."""

    num_mutations: int
    seed: int
    outcomes: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, str | float] = field(default_factory=dict)
    largest: dict[str, str | float] = field(default_factory=dict)
    failures: list[dict[str, str | float]] = field(default_factory=list)
    wall_s: float = 0.0
    stderr_bytes: int = 0


def seed_files() -> dict[str, bytes]:
    """The sound files that are damaged, by name."""
    return {variant.name: variant.data for variant in variants()}


def mutation(files: dict[str, bytes], seed: int, number: int) -> Mutation:
    """Damage one of the files in one to four ways, always the same for the same seed and number."""
    dice = random.Random(f"{seed}/{number}")
    names = sorted(files)
    family = dice.choice(sorted({name.split()[0] for name in names}))  # most variants are TIFFs
    name = dice.choice([name for name in names if name.startswith(family)])
    data = bytearray(files[name])
    ways = dice.choices(list(WAYS), k=dice.choice((1, 1, 1, 2, 4)))
    for way in ways:
        WAYS[way](data, dice, files[dice.choice(names)])
    if dice.random() < 0.75:
        _repair_checksums(data)
    return Mutation(f"{name}: {', '.join(ways)}", bytes(data))


def _repair_checksums(data: bytearray) -> None:
    """Make the chunks of a PNG valid again, which hides the damage from the check that would find it first."""
    position = 8
    while data[:4] == b"\x89PNG" and position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4


def _place(data: bytearray, dice: random.Random) -> int:
    """An index into the data; half of them in the headers, few in the signature, without which nothing is opened."""
    start = dice.choice((0, 4, 8, 8, 8, 8, 8, 8))
    stop = dice.choice((64, 200, len(data), len(data)))
    return dice.randrange(start, min(stop, len(data))) if len(data) > start else 0


def _flip_bits(data: bytearray, dice: random.Random, _: bytes) -> None:
    for _ in range(dice.choice((1, 2, 8, 64)) if data else 0):
        data[_place(data, dice)] ^= 1 << dice.randrange(8)


def _overwrite(data: bytearray, dice: random.Random, _: bytes) -> None:
    start, length = _place(data, dice), dice.randint(1, 32)
    data[start : start + length] = dice.choice((bytes(length), b"\xff" * length, dice.randbytes(length)))


def _delete(data: bytearray, dice: random.Random, _: bytes) -> None:
    start = _place(data, dice)
    del data[start : start + dice.randint(1, 64)]


def _repeat(data: bytearray, dice: random.Random, _: bytes) -> None:
    start = _place(data, dice)
    data[start:start] = data[start : start + dice.randint(1, 64)] * dice.choice((1, 2, 50))


def _truncate(data: bytearray, dice: random.Random, _: bytes) -> None:
    del data[_place(data, dice) :]


def _splice(data: bytearray, dice: random.Random, other: bytes) -> None:
    start, theirs = _place(data, dice), _place(bytearray(other), dice)
    length = dice.choice((8, 64, 512, len(other)))
    end = start + (length if dice.random() < 0.5 else 0)
    data[start:end] = other[theirs : theirs + length]


def _set_field(data: bytearray, dice: random.Random, _: bytes) -> None:
    """Sizes, counts and offsets, in either byte order, are integers somewhere in the headers."""
    code = dice.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(code)
    if len(data) >= size:
        start = min(_place(data, dice), len(data) - size)
        value = dice.choice((*EXTREMES, len(data), struct.unpack_from(code, data, start)[0] + dice.choice((-1, 1))))
        struct.pack_into(code, data, start, value % 256**size)


WAYS: dict[str, Callable[[bytearray, random.Random, bytes], None]] = {
    "flip bits": _flip_bits,
    "overwrite": _overwrite,
    "delete": _delete,
    "repeat": _repeat,
    "truncate": _truncate,
    "splice": _splice,
    "set a field": _set_field,
}


def decode(data: bytes) -> None:
    """What is tested, unless another function is given."""
    decode_image(data, max_pixels=MAX_PIXELS)


def measured(data: bytes, decoder: Callable[[bytes], object]) -> Measured:
    """Decode a file in this process and measure what it takes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _resident_bytes("VmRSS"), time.process_time()
    outcome, detail = "decoded", ""
    try:
        decoder(data)
    except (DecodeError, TooLargeError) as error:
        outcome, detail = type(error).__name__, str(error)
    except Exception:  # noqa: BLE001 what escapes is what we are here for
        outcome, detail = "escape", traceback.format_exc()
    cpu_s, growth_bytes = time.process_time() - start, _resident_bytes("VmHWM") - before
    if outcome != "escape" and (cpu_s > MAX_CPU_S or growth_bytes > MAX_GROWTH_BYTES):
        outcome, detail = "over limit", f"{outcome}: {detail}"
    return Measured(outcome, detail, cpu_s, growth_bytes)


def _resident_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _serve(connection: Connection, decoder: Callable[[bytes], object], stderr_path: str) -> None:
    """Decode one file after another; C libraries write their complaints into a file of their own."""
    os.dup2(os.open(stderr_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    for data in seed_files().values():
        decode(data)  # so that no mutation pays for what is loaded on first use
    connection.send(None)
    while (data := connection.recv()) is not None:
        connection.send(measured(data, decoder))


class Decoding:
    """A process that decodes files, and is replaced when one of them ends it."""

    def __init__(self, decoder: Callable[[bytes], object], patience_s: float, stderr_path: str) -> None:
        self._settings = decoder, patience_s, stderr_path
        self._start()

    def _start(self) -> None:
        decoder, _, stderr_path = self._settings
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, decoder, stderr_path), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def measure(self, data: bytes) -> Measured:
        """Decode a file; a process that died or hangs is an outcome too."""
        patience_s = self._settings[1]
        self._connection.send(data)
        start = time.monotonic()
        try:
            if self._connection.poll(patience_s):
                return self._connection.recv()
            outcome, detail = "hang", f"no answer in {patience_s} s"
            self._process.kill()
            self._process.join()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            outcome, detail = "crash", signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.close()
        self._start()
        return Measured(outcome, detail, time.monotonic() - start, 0)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def fuzz(
    num_mutations: int,
    seed: int,
    *,
    keep: Path,
    num_processes: int = 2,
    decoder: Callable[[bytes], object] = decode,
    patience_s: float = PATIENCE_S,
) -> Report:
    """Decode mutations 0 to num_mutations - 1 of a seed; files that fail are written into the folder `keep`."""
    files, report, start = seed_files(), Report(num_mutations, seed), time.monotonic()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_processes) as threads:
        stderr = Path(folder, "stderr")

        def work(first: int) -> list[tuple[int, str, Measured]]:
            process = Decoding(decoder, patience_s, str(stderr))
            results = []
            for number in range(first, num_mutations, num_processes):
                origin, data = mutation(files, seed, number)
                results.append((number, origin, process.measure(data)))
            process.close()
            return results

        results = sorted(itertools.chain.from_iterable(threads.map(work, range(num_processes))))
        report.stderr_bytes = stderr.stat().st_size if stderr.exists() else 0
    for number, origin, result in results:
        counts[result.outcome] += 1
        if result.outcome not in ("decoded", DecodeError.__name__, TooLargeError.__name__):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{seed}-{number}").write_bytes(mutation(files, seed, number).data)
            report.failures.append(_row(number, origin, result))
    report.outcomes = dict(counts)
    report.slowest = _row(*max(results, key=lambda row: row[2].cpu_s))
    report.largest = _row(*max(results, key=lambda row: row[2].growth_bytes))
    report.wall_s = time.monotonic() - start
    return report


def _row(number: int, origin: str, result: Measured) -> dict[str, str | float]:
    return {"number": number, "origin": origin, **result._asdict()}


def main() -> int:
    """Fuzz as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"), help="folder for files that fail")
    parser.add_argument("--output", type=Path, help="JSON file for the report")
    options = parser.parse_args()
    report = fuzz(options.mutations, options.seed, keep=options.keep, num_processes=options.processes)
    text = json.dumps(asdict(report), indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    print(text)
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
