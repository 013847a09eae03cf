"""An estimate as names and values: what `plan --estimate` prints."""

from __future__ import annotations

from datetime import timedelta

from sam_pipeline.cli.output.printing import statuses_text
from sam_pipeline.pipeline.estimating.figures import Cost, Estimate, RunFigures


def estimate_rows(found: Estimate) -> dict[str, object]:
    """Rows of a table."""
    rows: dict[str, object] = {"output": found.output, "images": f"{found.num_images} ({found.num_left} left)"}
    if found.run is None or found.sample is None or found.stages is None:
        return rows | {"time": "nothing is left to do"}
    statuses, took = statuses_text(found.sample.num_by_status), _time(found.sample.time_s)
    rows["sample"] = f"{found.sample.num_images} images ({statuses}), {took}"
    for name, stage in found.stages.items():
        work = f"{stage.num_workers} x {stage.busy_s_per_image:.3g} s an image"
        rows[name] = "no image yet" if stage.images_per_s is None else f"{stage.images_per_s:.3g} images/s: {work}"
    spread = "" if not found.time_spread else f" ± {found.time_spread:.0%}"
    rows |= {
        "bottleneck": found.bottleneck,
        "rate": f"{found.run.images_per_s:.3g} images/s",
        "time": f"{_time(found.run.time_s)}{spread}",
        "machines": _machines(found.run),
        "bytes out": "unknown: no shard of the sample was full" if found.bytes_out is None else _size(found.bytes_out),
        "requests": f"{found.run.requests.num_put} that write or list, {found.run.requests.num_get} that read",
    }
    if cost := _cost(found.run.cost):
        rows["cost"] = cost
    if more := found.one_more_node:
        each = (f"{more.images_per_s:.3g} images/s", _time(more.time_s), _machines(more), _cost(more.cost))
        rows["one more node"] = "; ".join(filter(None, each))
    return rows | {"estimated in": _time(found.estimate_s)}


def _machines(run: RunFigures) -> str:
    nodes = f"{run.num_nodes} node{'' if run.num_nodes == 1 else 's'}, {run.node_hours:.3g} node-hours"
    return f"{nodes}, {run.gpu_hours:.3g} GPU-hours" if run.num_gpus else nodes


def _cost(cost: Cost) -> str:
    parts = (
        ("machines {:.4g}", cost.nodes),
        ("requests {:.4g}", cost.requests),
        ("storage {:.4g} a month", cost.storage_per_month),
    )
    return ", ".join(text.format(value) for text, value in parts if value is not None)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
