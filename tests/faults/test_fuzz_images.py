import itertools
import json
import subprocess
import sys

import pytest

from tests.faults import fuzz_images
from tests.faults.failing_decoders import kills_its_process, raises_key_error, sleeps
from tests.faults.fuzz_images import fuzz, measured, mutation, seed_files


def test_damaged_files_end_as_pixels_or_as_one_of_two_errors_in_bounded_time_and_memory(tmp_path):
    report = fuzz(600, seed=0, keep=tmp_path)
    assert report.failures == []
    assert sum(report.outcomes.values()) == 600
    # Of damage that always or never shows, nothing would be learnt.
    assert report.outcomes["decoded"] > 50
    assert report.outcomes["DecodeError"] > 50


def test_mutations_depend_on_seed_and_number_alone_and_differ():
    files = seed_files()
    first = [mutation(files, 1, number) for number in range(200)]
    assert first == [mutation(dict(reversed(files.items())), 1, number) for number in range(200)]
    assert len({data for _, data in first}) > 190
    assert first != [mutation(files, 2, number) for number in range(200)]
    ways = {way for origin, _ in first for way in origin.split(": ")[1].split(", ")}
    assert ways == set(fuzz_images.WAYS)


@pytest.mark.parametrize(
    ("decoder", "outcome", "detail"),
    [
        (raises_key_error, "escape", "KeyError: 'MPO'"),
        (kills_its_process, "crash", "SIGSEGV"),
        (sleeps, "hang", "no answer in 0.5 s"),
    ],
)
def test_a_decoder_that_fails_is_reported_with_the_file(tmp_path, decoder, outcome, detail):
    files = seed_files()
    of_gifs = [number for number in range(16) if mutation(files, 3, number).data[:1] == b"G"]
    report = fuzz(16, seed=3, keep=tmp_path, num_processes=1, decoder=decoder, patience_s=0.5)
    assert 1 <= len(of_gifs) <= 4  # each costs a start of the process
    assert report.outcomes == {outcome: len(of_gifs), "decoded": 16 - len(of_gifs)}
    assert [failure["number"] for failure in report.failures] == of_gifs
    assert all(failure["outcome"] == outcome and detail in failure["detail"] for failure in report.failures)
    for number in of_gifs:
        assert (tmp_path / f"3-{number}").read_bytes() == mutation(files, 3, number).data


def test_time_and_memory_beyond_the_limits_are_reported(monkeypatch):
    monkeypatch.setattr(fuzz_images, "MAX_CPU_S", 0.05)
    monkeypatch.setattr(fuzz_images, "MAX_GROWTH_BYTES", 50_000_000)
    slow = measured(b"", lambda _: sum(itertools.repeat(1, 30_000_000)))
    assert (slow.outcome, slow.cpu_s > 0.05) == ("over limit", True)
    large = measured(b"", lambda _: b"\1" * 100_000_000)
    assert large.outcome == "over limit"
    assert 90_000_000 < large.growth_bytes < 150_000_000
    assert measured(b"", lambda _: None).outcome == "decoded"


def test_the_program_writes_its_report_and_exits_by_it(tmp_path):
    command = [sys.executable, "-m", "tests.faults.fuzz_images", "--mutations", "20", "--processes", "1"]
    output = tmp_path / "report.json"
    done = subprocess.run([*command, "--output", str(output), "--keep", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(output.read_text()) == json.loads(done.stdout)
    assert json.loads(done.stdout)["num_mutations"] == 20
