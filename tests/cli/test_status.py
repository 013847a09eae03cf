"""What `status` and `runs` print, of outputs made by hand; of runs in progress: tests/faults/test_records.py."""

import io
import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from sam_pipeline.cli import status
from sam_pipeline.cli.output.progress_text import WatchDisplay, progress_line, progress_lines
from sam_pipeline.errors import StorageUnavailableError
from sam_pipeline.safety.terminal import PlainConsole
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.maintenance import watching
from sam_pipeline.storage.maintenance.progress import Progress, RunState
from sam_pipeline.storage.run_ids import run_id
from sam_pipeline.storage.tables.plan import Plan, extend_plan, read_plan
from sam_pipeline.storage.tables.prompts import write_prompts
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA, PROMPTS_SCHEMA
from tests.storage.runs import failed_row, finished, plan, row, shard, take_over
from tests.storage.starts import end_record, start

PREVIOUS = Path(__file__).parents[1] / "storage" / "previous_version" / "run"


def test_the_status_of_a_run_with_prompts_counts_those_that_were_not_used(cli, tmp_path):
    error = {"role": "prompt", "prompt_id": 1, "error": "no area"}
    rows = [{"image_id": 0, "role": "prompt", "prompt_id": index, "is_relative": False} for index in range(3)]
    write_prompts(str(tmp_path), pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA), {}, 5, {})
    finished(str(tmp_path), [row(0, prompt_errors=[error]), row(1)], num_images=5)
    code, out, _ = cli("status", tmp_path)
    assert code == 0
    assert re.search(r"prompts +3 \(1 unusable\)\n", out)


def test_the_status_of_a_planned_run_is_what_was_planned(cli, tmp_path):
    plan(str(tmp_path), 7)
    code, out, _ = cli("status", tmp_path)
    assert code == 0
    assert re.search(r"images +7\n", out)
    assert "done" not in out


def test_the_status_of_a_run_is_read_from_storage_alone(cli, tmp_path):
    finished(str(tmp_path), [row(0), row(1, 3)], num_images=5)
    code, out, err = cli("status", tmp_path)
    assert (code, err) == (0, "")
    assert re.search(r"done +2 \(2 ok\)\n", out)
    assert re.search(r"left +3\n", out)
    assert re.search(r"masks +5\n", out)


def test_a_status_that_is_read_while_the_plan_is_extended_has_nothing_left_below_none(cli, tmp_path, monkeypatch):
    finished(str(tmp_path), [row(0), row(1)])

    def extended_before(*arguments, **options):
        new = source_table([SourceObject("file:///in/0002.jpg", 1, "e")])
        extend_plan(read_plan(str(tmp_path), {}), new, IMAGES_SCHEMA.empty_table(), {})
        take_over(str(tmp_path)).commit([shard(str(tmp_path), [row(2)])])
        return read_plan(*arguments, **options)

    monkeypatch.setattr(watching, "existing_plan", extended_before)
    _, out, err = cli("status", tmp_path)
    assert err == ""
    assert re.search(r"images +3\ndone +2 ", out)
    assert re.search(r"left +1\n", out)


def test_the_status_names_each_kind_of_error_with_an_example(cli, tmp_path):
    finished(str(tmp_path), [row(0), failed_row(1), failed_row(2), failed_row(3, "too_large")], num_images=5)
    _, out, _ = cli("status", tmp_path)
    assert re.search(r"^decode_error +2, such as file:///in/000[12].jpg: the file is empty$", out, re.MULTILINE)
    assert re.search(r"^too_large +1, such as file:///in/0003.jpg: the file is empty$", out, re.MULTILINE)


def test_the_status_says_how_old_the_last_commit_is_and_who_began_the_last_start(cli, tmp_path):
    output = str(tmp_path)
    plan(output, 2)
    table = start(output)
    table.commit([shard(output, [row(0)])])
    _, out, _ = cli("status", output)
    assert re.search(r"^last commit +\d s ago$", out, re.MULTILINE)
    began = r"last start +2026-11-29T04:25:00\+00:00 by someone@a-host, "
    assert re.search(began + r"no end was written \(running, or killed\?\)", out)
    table.record_end(end_record(outcome="stopped", error="SIGTERM"))
    assert re.search(began + r"stopped: SIGTERM\n", cli("status", output)[1])


def test_as_json_the_status_is_one_object(cli, tmp_path):
    finished(str(tmp_path), [row(0), failed_row(1)], num_images=5)
    code, out, err = cli("status", tmp_path, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    assert 0 <= found.pop("last_commit_age_s") < 60
    rate, left = found.pop("images_per_s"), 3
    assert found.pop("eta_s") == pytest.approx(left / rate)
    assert found == {
        "output": str(tmp_path),
        "run_id": run_id(str(tmp_path)),
        "input": "/in",
        "num_images": 5,
        "num_done": 2,
        "num_left": 3,
        "num_by_status": {"ok": 1, "decode_error": 1},
        "num_masks": 2,
        "num_prompts": {},
        "num_unusable_prompts": {},
        "is_stalled": False,
        "errors": [{"kind": "decode_error", "num": 1, "example": "file:///in/0001.jpg: the file is empty"}],
        "filters": [],
        "newest_start": None,
    }


def test_as_json_the_status_of_a_planned_run_says_that_nothing_is_done(cli, tmp_path):
    plan(str(tmp_path), 7)
    found = json.loads(cli("status", tmp_path, "--json")[1])
    assert (found["num_images"], found["num_left"], found["images_per_s"], found["last_commit_age_s"]) == (
        7,
        7,
        None,
        None,
    )


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_watching_looks_again_until_nothing_is_left(cli, tmp_path, monkeypatch, flags):
    output = str(tmp_path)
    plan(output, 3)
    table = take_over(output)
    table.commit([shard(output, [row(0)])])
    waited = []

    def work(seconds):
        waited.append(seconds)
        table.commit([shard(output, [row(len(waited))])])

    monkeypatch.setattr(status.time, "sleep", work)
    code, out, err = cli("status", output, "--watch", *flags)
    assert (code, err, waited) == (0, "", [5.0, 5.0])
    lines = out.splitlines()
    if flags:
        assert [json.loads(line)["num_done"] for line in lines] == [1, 2, 3]
    else:
        assert [line.split(",")[0] for line in lines[:3]] == ["1/3 images", "2/3 images", "3/3 images"]
        assert [line for line in lines[3:] if re.fullmatch(r"left +0", line)]


def test_watching_goes_on_when_storage_does_not_answer_for_a_while(cli, tmp_path, monkeypatch, caplog):
    output = str(tmp_path)
    plan(output, 2)
    table = take_over(output)
    table.commit([shard(output, [row(0)])])
    look, failures = watching.RunWatch.look, [None, StorageUnavailableError("no answer for two minutes")]

    def look_or_fail(watch):
        if failures and (failure := failures.pop(0)):
            raise failure
        return look(watch)

    monkeypatch.setattr(watching.RunWatch, "look", look_or_fail)
    monkeypatch.setattr(status.time, "sleep", lambda _: failures or table.commit([shard(output, [row(1)])]))
    code, out, _ = cli("status", output, "--watch", "--json")
    assert (code, [json.loads(line)["num_done"] for line in out.splitlines()]) == (0, [1, 2])
    assert caplog.messages == ["no answer for two minutes"]
    failures[:] = [StorageUnavailableError("no answer at all")]
    assert cli("status", output, "--watch")[0] == 1


def at(age_s, *, num_done=5, errors=0):
    state = RunState(Counter(ok=num_done - errors, decode_error=errors), 12, [(1000.0, 1), (1010.0, num_done - 1)])
    return Progress(Plan("/run", "/in", 10), {}, state, 1010.0 + age_s)


@pytest.mark.parametrize(
    ("age_s", "text"),
    [
        (-3, "0 s ago"),
        (4.4, "4 s ago"),
        (90, "2 min ago"),
        (725, "no commit for 12 min"),
        (90_000, "no commit for 1 d"),
    ],
)
def test_a_run_without_a_commit_for_long_is_said_to_be_so(age_s, text):
    assert next(line for line in progress_lines(at(age_s)) if line.startswith("last commit")).endswith(f"  {text}")
    assert progress_line(at(age_s)).endswith(text)
    assert at(age_s).is_stalled == text.startswith("no commit")


def test_a_finished_run_waits_for_no_commit():
    assert not at(90_000, num_done=10).is_stalled
    assert progress_line(at(90_000, num_done=10)).endswith(", last commit 1 d ago")


def test_a_look_elsewhere_than_on_a_terminal_is_one_line():
    assert progress_line(at(4, errors=2)) == "5/10 images, 0.4/s, 12 masks, 2 errors, ETA 0:00:12, last commit 4 s ago"


def test_on_a_terminal_a_look_takes_the_place_of_the_last():
    written = io.StringIO()
    console = PlainConsole(file=written, width=80, force_terminal=True, legacy_windows=False)
    with WatchDisplay(console) as display:
        display.show(at(4))
        first = written.getvalue()
        display.show(at(8))
    assert re.search(r"last commit +4 s ago", first)
    assert re.search(r"last commit +8 s ago", written.getvalue())
    assert "\x1b[1A" in written.getvalue().removeprefix(first)  # the cursor goes up, over what was there
    assert "images, " not in written.getvalue()


def test_the_last_look_stays_when_watching_is_interrupted():
    written = io.StringIO()
    console = PlainConsole(file=written, width=80, force_terminal=True, legacy_windows=False)

    def watch():
        with WatchDisplay(console) as display:
            display.show(at(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert "last commit" in written.getvalue().rpartition("\x1b[2K")[2], "the last that is done is to draw it"


def test_on_a_terminal_that_cannot_go_back_a_look_is_a_line(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    written = io.StringIO()
    with WatchDisplay(PlainConsole(file=written, width=80, force_terminal=True)) as display:
        display.show(at(4))
        display.show(at(8))
    assert written.getvalue().count("images, ") == 2


def test_the_starts_of_a_run_are_listed(cli, tmp_path):
    output = str(tmp_path)
    plan(output, 3)
    first = start(output)
    first.commit([shard(output, [row(0), row(1)])])
    second = start(output, "b")
    second.commit([shard(output, [row(2)])])
    second.record_end(end_record(num_by_status={"ok": 1}))
    code, out, err = cli("runs", output)
    assert (code, err) == (0, "")
    heading, *lines = out.splitlines()
    assert " ".join(heading.split()) == "start began (UTC) by version model cluster images rate CPU h GPU h state"
    begun = r"2026-11-29 04:25 +someone@a-host +0\.1\.0 +vit_t +2 nodes, 8 CPUs, 1 GPU \(H100\)"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert re.fullmatch(rf"1 +{begun} +2 +no end was written \(killed\?\); last commit {today} \d\d:\d\d", lines[0])
    assert re.fullmatch(rf"2 +{begun} +1 +0.001/s +8 +1 +finished", lines[1])


def test_as_json_a_start_is_an_object(cli, tmp_path):
    output = str(tmp_path)
    plan(output, 1)
    start(output).record_end(end_record(outcome="failed", error="it stalled", num_by_status={}))
    start(output, "b")
    found = [json.loads(line) for line in cli("runs", output, "--json")[1].splitlines()]
    assert [(each["run_id"], each["start_id"], each["state"]) for each in found] == [
        (run_id(output), "a", "failed: it stalled"),
        (run_id(output), "b", "no end was written (running, or killed?)"),
    ]
    assert (found[0]["cpu_hours"], found[0]["num_images"]) == (8.0, 0)


def test_the_starts_of_an_output_of_a_version_without_records_are_its_epochs(cli, tmp_path):
    output = shutil.copytree(PREVIOUS, tmp_path / "run")
    code, out, err = cli("runs", output)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"1 +5 +no record was written; last commit 2026-11-28 16:22", out.splitlines()[1])


def test_a_run_that_has_not_begun_has_no_starts(cli, tmp_path):
    plan(str(tmp_path), 1)
    code, out, err = cli("runs", tmp_path)
    assert (code, out) == (2, "")
    assert err == f"error: no results in {tmp_path}\n"
