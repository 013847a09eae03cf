"""What a run shows on its way: on a terminal of 80 columns, and in a file."""

import io
import re
from collections import Counter

import pytest

from sam_pipeline.pipeline import progress
from sam_pipeline.pipeline.monitor import Counts
from sam_pipeline.pipeline.progress import RichDisplay
from sam_pipeline.safety.terminal import PlainConsole


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the display believes in."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(clock, counts, *, num_images, num_before=0, seconds=30.0, is_terminal=False):
    """The last line of a display after one update."""
    written = io.StringIO()
    console = PlainConsole(file=written, width=80, force_terminal=is_terminal, legacy_windows=False)
    display = RichDisplay(num_images, num_before, console)
    with display:
        clock[0] += seconds
        display.update(counts, num_before + counts.num_images)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
    return [line for line in re.split(r"[\r\n]", text) if line.strip()][-1]


@pytest.mark.parametrize(
    ("num_images", "num_before", "counts", "seconds"),
    [
        (3, 0, Counts(), 1.0),
        (400, 0, Counts(Counter(ok=12), num_masks=500), 60.0),
        (1_000_000, 999, Counts(Counter(ok=30_000, decode_error=12_345), num_masks=100_000_000), 100_000.0),
        (10_000_000, 9_000_000, Counts(Counter(ok=1, too_large=99_999), num_masks=1), 1e7),
    ],
)
def test_the_bar_fits_80_columns_and_counts_images(clock, num_images, num_before, counts, seconds):
    line = shown(clock, counts, num_images=num_images, num_before=num_before, seconds=seconds, is_terminal=True)
    assert len(line) <= 80
    assert re.match(r"images ", line)
    assert re.search(rf" {num_before + counts.num_images}/{num_images} ", line)
    assert f"{counts.num_masks} masks" in line
    assert "ETA" in line
    assert "…" not in line


def test_a_file_gets_one_plain_line(clock):
    counts = Counts(Counter(ok=10, decode_error=2), num_masks=55)
    line = shown(clock, counts, num_images=100, num_before=4)
    assert line == "16/100 images, 0.4/s, 55 masks, 2 errors, ETA 0:03:30, 16 committed"


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "0:01:00"), (80_000, "22:13:20"), (90_000, "1 d 1 h")])
def test_times_are_short(seconds, text):
    assert progress._time_text(seconds) == text
