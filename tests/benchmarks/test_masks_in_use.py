import pytest

from benchmarks.commands import masks_in_use
from benchmarks.commands.masks_in_use import main, missed

GOOD = {"what": "stats", "images": 10, "seconds": 1.0, "images_per_s": 3000.0, "peak_bytes": 10**8, "bytes_read": None}


def test_every_use_is_measured(monkeypatch, capsys):
    written = {}
    monkeypatch.setattr(masks_in_use, "write_result", written.__setitem__)
    monkeypatch.setattr(masks_in_use, "missed", lambda rows: [])  # a small run is all start-up
    main(["--images", "200", "--masks-per-image", "2", "--only", "filter, 1 %", "export", "open", "--name", "few"])
    rows = written["few"]["rows"]
    assert [row["what"] for row in rows] == ["filter, 1 % of the images", "export, COCO", "open a torch dataset"]
    assert all(row["cpu_s"] > 0 and 20 * 2**20 < row["peak_bytes"] < 2**30 for row in rows)
    assert rows[0]["bytes_read"] > 0
    assert "export, COCO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD], []),
        ([GOOD | {"peak_bytes": 10**9 + 1}], ["stats took 1.00 GB"]),
        ([GOOD | {"what": "export, COCO", "images_per_s": 1999.0}], ["COCO was written at 1,999 images/s"]),
        ([GOOD | {"what": "open a torch dataset", "seconds": 2.5}], ["a dataset took 2.5 s to open"]),
        (
            [
                GOOD | {"what": "filter, half of the masks", "bytes_read": 1000},
                GOOD | {"what": "filter, 1 % of the images", "bytes_read": 51},
            ],
            ["for 1 % of the images 51 of 1,000 bytes were read"],
        ),
    ],
)
def test_bars(rows, words):
    assert missed(rows) == words
