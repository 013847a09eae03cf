"""Exporting a run on a Ray cluster, its parts as tasks; the files are those that the command export writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from sam_pipeline.errors import RunFailedError, SamPipelineError
from sam_pipeline.exports.exporting import Summary, finish, start
from sam_pipeline.exports.format import Job
from sam_pipeline.exports.parts import Position, count_images, num_parts, write_images
from sam_pipeline.exports.places.destination import Destination
from sam_pipeline.exports.progress import read_parts, write_part
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.pipeline.machines.cluster import connected
from sam_pipeline.results.results import Results
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import absolute_uri

_MAX_TRIES = 3


def export_on_cluster(
    results: Results,
    dest: str,
    settings: ExportSettings,
    advance: Callable[[int], object] = lambda _: None,
) -> Summary:
    """Write a run in another format, on as many CPUs as the cluster has.

    What comes before a part decides its ids. So small columns of all parts are read first, at once too.

    Args and errors: those of exports.exporting.export. A local destination must be a folder that all machines share.

    Raises:
        RunFailedError: a part failed again and again; the same call goes on.
    """
    destination = Destination(absolute_uri(dest), results.storage_options)
    with connected(None):
        job, marker = start(results, destination, settings)
        done = read_parts(destination)
        left = [number for number in range(num_parts(job)) if number not in done]
        sent = ray.put(job)
        pieces = {number: record.pieces for number, record in done.items()}
        pieces |= dict(_in_tasks(_count, [(sent, number) for number in left]))
        positions, position = {}, Position()
        for number in range(num_parts(job)):
            positions[number] = position.copy()
            position.advance(pieces[number])
        for record in done.values():
            advance(record.report.num_images + record.report.images_left_out.total())
        tasks = [(sent, number, destination, positions[number]) for number in left]
        for number, record in _in_tasks(_write, tasks):
            done[number] = record
            advance(record.report.num_images + record.report.images_left_out.total())
    return finish(job, destination, marker, [done[number] for number in sorted(done)])


def _in_tasks(function: Any, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Run a function as Ray tasks, one for each tuple of arguments; yields its results as the tasks end."""
    task = ray.remote(num_cpus=1, max_retries=_MAX_TRIES, retry_exceptions=False)(function)
    most = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(arguments))
    running: dict[Any, int] = {}
    while waiting or running:
        while waiting and len(running) < most:
            values = waiting.pop()
            running[task.remote(*values)] = values[1]
        (ready,), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(ready), _value(ready)


def _value(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except SamPipelineError as error:  # Ray makes an error of the class of the cause, with a traceback as its text
        raise getattr(error, "cause", error) from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise RunFailedError(f"a part of the export failed: {one_line(cause)}; the same command goes on") from error


def _count(job: Job, number: int) -> Any:
    return count_images(job, number)


def _write(job: Job, number: int, destination: Destination, position: Position) -> Any:
    record = write_images(job, destination, number, position)
    write_part(destination, number, record)
    return record
