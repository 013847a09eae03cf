"""How far a run has come, as figures; watching.py reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sam_pipeline.storage.run_ids import run_id
from sam_pipeline.storage.tables.plan import Plan
from sam_pipeline.storage.tables.start_records import Start

# Commits further apart than this belong to different starts, or to a run that stood still.
_PAUSE_S = 1800
_RATE_COMMITS = 50
# As long as a start waits by default before it fails as stalled.
_STALLED_S = 600


@dataclass(frozen=True)
class ErrorKind:
    """Images that failed in one way, or prompts or regions that were not used."""

    kind: str
    """A status, "prompt" or "region"."""
    num: int
    example: str
    """The URI and the error of one such image."""


@dataclass(frozen=True)
class RunState:
    """What a results table holds."""

    num_by_status: Counter[str]
    num_masks: int
    commits: list[tuple[float, int]]
    """(Unix time in seconds, images) of the latest commits of shards, oldest first."""
    filters: list[dict[str, Any]] = field(default_factory=list)
    """See config.fingerprint.filters_of."""
    num_unusable: Counter[str] = field(default_factory=Counter)
    """Prompts and regions that were not used, by role."""
    errors: tuple[ErrorKind, ...] = ()
    """The most frequent first."""
    newest_start: Start | None = None
    """The newest start of annotate; None where none has left a record."""

    def recent_rate(self) -> float | None:
        """Images a second over the last commits of one working period; None before there are two."""
        recent = self.commits[-1:]
        for commit in reversed(self.commits[:-1]):
            if recent[0][0] - commit[0] > _PAUSE_S or len(recent) > _RATE_COMMITS:
                break
            recent.insert(0, commit)
        if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
            return None
        # What the first commit of the period holds was made before the period began.
        return sum(count for _, count in recent[1:]) / (recent[-1][0] - recent[0][0])


@dataclass(frozen=True)
class Progress:
    """A run at the time of a look."""

    plan: Plan
    num_planned_prompts: Mapping[str, int]
    """Prompts and regions by role; empty where the run has none."""
    state: RunState | None
    """None before the first start."""
    looked_s: float
    """Unix time of the look, in seconds."""

    @property
    def num_done(self) -> int:
        """Images that have a row."""
        return 0 if self.state is None else self.state.num_by_status.total()

    @property
    def num_left(self) -> int:
        """Images that have none."""
        return self.plan.num_images - self.num_done

    @property
    def rate(self) -> float | None:
        """Images a second; see RunState.recent_rate."""
        return None if self.state is None else self.state.recent_rate()

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest takes at this rate; None if nothing is left, no rate is known, or it is stalled."""
        return self.num_left / self.rate if self.num_left and self.rate and not self.is_stalled else None

    @property
    def last_commit_age_s(self) -> float | None:
        """Seconds since images were committed; by the clocks of the driver and of this machine."""
        if self.state is None or not self.state.commits:
            return None
        return max(0.0, self.looked_s - self.state.commits[-1][0])

    @property
    def is_stalled(self) -> bool:
        """Whether images are left, and none was committed for ten minutes."""
        return bool(self.num_left) and (self.last_commit_age_s or 0) > _STALLED_S

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        state = self.state or RunState(Counter(), 0, [])
        return {
            "output": self.plan.output,
            "run_id": run_id(self.plan.output),
            "input": self.plan.input,
            "num_images": self.plan.num_images,
            "num_done": self.num_done,
            "num_left": self.num_left,
            "num_by_status": dict(state.num_by_status),
            "num_masks": state.num_masks,
            "num_prompts": dict(self.num_planned_prompts),
            "num_unusable_prompts": dict(state.num_unusable),
            "images_per_s": self.rate,
            "eta_s": self.eta_s,
            "last_commit_age_s": self.last_commit_age_s,
            "is_stalled": self.is_stalled,
            "errors": [asdict(error) for error in state.errors],
            "filters": state.filters,
            "newest_start": None if state.newest_start is None else state.newest_start.to_dict(),
        }
