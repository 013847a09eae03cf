import json
import os
import subprocess
import sys
from collections import Counter

import psutil
import pytest

from benchmarks import report
from benchmarks.commands import orchestration
from benchmarks.commands.orchestration import figures, main, write_images
from benchmarks.measured.process_watch import ProcessWatch, Sample


@pytest.mark.soak
def test_a_run_on_logical_gpus_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    flags = ["--images", "40", "--gpus", "1", "--cpus", "2", "--crop-size", "16", "--embedding-bytes", "64"]
    main([*flags, "--shard-rows", "10", "--unread", "--name", "few"])
    (run,) = json.loads((tmp_path / "few.json").read_text())["runs"]
    assert run["setup"]["gpus"] == 1
    assert run["images_done"] == 40
    assert 0 < run["first_commit_s"] < run["total_s"]
    assert run["driver_start_cpu_s"] > 0.5
    last = run["memory"][-1]
    assert last["images"] == 40
    assert last["driver_mib"] > 50
    assert last["gcs_mib"] > 5
    assert last["store_mib"] > 0
    assert "40 of 40" in capsys.readouterr().out


def test_runs_are_added_to_those_before(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.append_result("runs", {"images": 1})
    report.append_result("runs", {"images": 2})
    assert [run["images"] for run in json.loads((tmp_path / "runs.json").read_text())["runs"]] == [1, 2]


def test_figures_are_those_after_a_tenth_of_the_images():
    events = [
        {"event": "start", "time_s": 100.0},
        {"event": "progress", "time_s": 105.0, "done": 0, "committed": 0},
        {"event": "progress", "time_s": 110.0, "done": 100, "committed": 0},
        {"event": "progress", "time_s": 115.0, "done": 600, "committed": 50},
        {"event": "progress", "time_s": 120.0, "done": 1000, "committed": 1000},
        {"event": "end", "time_s": 123.0},
    ]
    samples = [
        Sample(100.0, Counter(driver=1.0), 10),
        Sample(109.9, Counter(driver=5.0, reading=1.0), 1000),
        Sample(119.9, Counter(driver=5.9, reading=10.0), 2800),
        Sample(122.0, Counter(driver=99.0), 0),
    ]
    found = figures(events, samples, 1000)
    assert found["images_per_s"] == 90
    assert found["first_commit_s"] == 15
    assert found["total_s"] == 23
    assert found["driver_start_cpu_s"] == 5
    assert found["cpu_ms_per_image"] == pytest.approx({"driver": 1.0, "reading": 10.0})
    assert found["driver_growth_bytes_per_image"] == 2


def test_many_names_are_few_files(monkeypatch, tmp_path):
    monkeypatch.setattr(orchestration, "_IMAGES_A_FILE", 3)
    write_images(tmp_path / "images", 7)
    files = sorted((tmp_path / "images").rglob("*.png"))
    assert len(files) == 7
    assert len({os.stat(file).st_ino for file in files}) == 3


def test_cpu_of_a_worker_counts_for_what_it_does():
    program = (
        "import sys, time\n"
        "end = time.process_time() + 0.4\n"
        "while time.process_time() < end: pass\n"
        "print(flush=True)\n"
        "sys.stdin.readline()\n"
    )
    title = "ray::MapBatches(read_images)"
    command = ["bash", "-c", f'exec -a "{title}" {sys.executable} -c "$0"', program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        watch = ProcessWatch(psutil.Process(), lambda: [psutil.Process(), psutil.Process(process.pid)])
        looks = iter([False, True])
        watch.run(lambda: next(looks))
        process.stdin.close()
    (sample,) = watch.samples
    assert sample.cpu_s["reading"] == pytest.approx(0.4, abs=0.15)
    assert sample.cpu_s["driver"] > 0
    assert sample.memory_bytes > 2**20
