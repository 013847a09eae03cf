import pyarrow.parquet as pq
import pytest

from benchmarks.commands import planning
from benchmarks.commands.planning import FORMATS, main, missed, plan_manifest, write_manifest


def test_every_format_is_planned_and_measured(monkeypatch, capsys):
    written = {}
    monkeypatch.setattr(planning, "write_result", written.__setitem__)
    main(["--images", "1500", "--format", *FORMATS, "--name", "few"])
    rows = written["few"]["rows"]
    assert [(row["input"], row["images"]) for row in rows] == [(f"{kind} manifest", 1500) for kind in FORMATS]
    for row in rows:
        assert row["images_per_s"] == 1500 / row["seconds"]
        assert 20 * 2**20 < row["peak_bytes"] < 2**30, "not the memory of a process that has pyarrow in it"
    assert "1,500" in capsys.readouterr().out


def test_a_manifest_is_in_no_order_and_names_each_image_once(tmp_path):
    write_manifest(tmp_path / "list.parquet", 3000)
    uris = pq.read_table(tmp_path / "list.parquet")["uri"].to_pylist()
    assert len(set(uris)) == 3000
    assert uris != sorted(uris)
    assert min(uris) == "s3://bucket/dataset/photos/0000000/0000000000.jpg"


@pytest.mark.parametrize(
    ("result", "num_missed"),
    [
        ({"images": 10**6, "peak_bytes": 10**9, "seconds": 300}, 0),
        ({"images": 10**6, "peak_bytes": 10**9 + 1, "seconds": 301}, 2),
        ({"images": 10**7, "peak_bytes": 10**10, "seconds": 300}, 0),
        ({"images": 10**7, "peak_bytes": 10**10, "seconds": 301}, 1),
        ({"images": 10**8, "peak_bytes": 10**11, "seconds": 3000}, 0),
    ],
)
def test_bars_are_for_a_million_and_ten_million(result, num_missed):
    assert len(missed({"input": "csv manifest", **result})) == num_missed
    assert missed({"input": "objects on S3", **result}) == []


@pytest.mark.soak
def test_a_million_images_of_a_manifest_are_planned_below_the_bar():
    assert missed(plan_manifest("parquet", 10**6)) == []


@pytest.mark.soak
@pytest.mark.s3
def test_objects_of_a_bucket_are_listed():
    assert planning.plan_objects(2500)["images"] == 2500  # three pages
