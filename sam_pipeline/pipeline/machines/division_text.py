"""What is said of a division before a run: what each stage gets, and what a run on GPUs may be expected to do."""

from __future__ import annotations

from sam_pipeline.pipeline.machines.resources import (
    FINISH_CPU_S,
    GPU_IMAGES_PER_S,
    LEAST_FINISH_CPUS,
    READ_CPU_S,
    Cluster,
    Resources,
    needed_gpus,
)


def division_lines(r: Resources, cluster: Cluster) -> list[str]:
    """A heading, and a line for each stage: how many tasks or actors, and what one of them reserves."""
    stages = [
        ("read", r.read_tasks, "task", r.read_cpus, 0.0, ""),
        ("encode", r.encode_actors, "actor", r.encode_cpus, r.encode_gpus, f"{r.encode_batch_size} at once"),
        ("decode", r.decode_actors, "actor", r.decode_cpus, r.decode_gpus, ""),
        ("write", r.write_tasks, "task", r.write_cpus, 0.0, f"{r.shard_rows} images a shard"),
    ]
    lines = [f"{cluster.num_cpus:g} CPUs and {cluster.num_gpus:g} GPUs are divided, to each stage at most:"]
    for name, number, kind, cpus, gpus, more in stages:
        each = f"{cpus:g} CPU" + (f" + {gpus:g} GPU" if gpus else "")
        where = {"encode": r.encode_on, "decode": r.decode_on}.get(name)
        notes = [note for note in (more, where and f"on {where}", _threads(name, r)) if note]
        plural = kind if number == 1 else f"{kind}s"
        lines.append(f"  {name:<7} {number:>4} {plural:<6}  {each:<22} {', '.join(notes)}".rstrip())
    return lines


def _threads(stage: str, r: Resources) -> str:
    is_ours = r.device == "cpu" and stage in ("encode", "decode")
    return f"{r.threads} thread{'' if r.threads == 1 else 's'}" if is_ours else ""


def expectation(r: Resources, model_type: str, num_cpus: float) -> str:
    """What each stage of a run on GPUs is expected to do, and which of them holds the others back."""
    read_cpus = r.read_tasks * r.read_cpus
    # One CPU of a decoder keeps the device busy.
    finish_cpus = r.decode_actors * max(LEAST_FINISH_CPUS, r.decode_cpus - 1)
    num_gpus = needed_gpus(r)
    stages = {
        "reading": (f"{read_cpus:.3g} of {num_cpus:g} CPUs", read_cpus / READ_CPU_S),
        "networks": (
            f"{num_gpus:.3g} GPU{'' if num_gpus == 1 else 's'}",
            num_gpus * GPU_IMAGES_PER_S[model_type],
        ),
        "finishing masks": (f"{finish_cpus:.3g} of {num_cpus:g} CPUs", finish_cpus / FINISH_CPU_S),
    }
    each = "; ".join(f"{name}: {what}, {rate:.0f} images/s" for name, (what, rate) in stages.items())
    bottleneck = min(stages, key=lambda name: stages[name][1])
    return f"{each}; expected bottleneck, for images of 1500 x 2250 pixels and 32 x 32 points: {bottleneck}"
