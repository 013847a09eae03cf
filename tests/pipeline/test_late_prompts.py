"""Two starts on one planned output, one with prompts and one without: the results are of one of them.

One is stopped before each of its storage calls in turn, while the other runs to its end.
"""

import json

import pytest

from sam_pipeline.errors import ConfigError, FencedError
from sam_pipeline.pipeline.annotate import _begin
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.prompt_plan import resolve_targets
from sam_pipeline.pipeline.starting.planned_run import PlannedRun
from sam_pipeline.pipeline.starting.start_recording import StartRecorder
from sam_pipeline.storage.tables import delta
from sam_pipeline.storage.tables.delta_place import Table
from sam_pipeline.storage.tables.prompts import read_prompts_header
from sam_pipeline.storage.tables.reading.run_header import read_header
from tests.pipeline.test_prompt_plan import config_of, detection, file_of
from tests.storage.image_files import noise, saved
from tests.storage.runs import row, shard

MAX_CALLS = 100


class Interruption:
    """Something to do before a storage call, the first one being 0."""

    calls_left = 0
    deed = None

    @classmethod
    def call(cls):
        cls.calls_left -= 1
        if cls.calls_left < 0 and cls.deed is not None:
            deed, cls.deed = cls.deed, None
            deed()


class InterruptedTable(Table):
    def __init__(self, *arguments, **options):
        Interruption.call()
        super().__init__(*arguments, **options)

    def create_write_transaction(self, *arguments, **options):
        Interruption.call()
        super().create_write_transaction(*arguments, **options)


def has_done_an_image(config, is_planned_only=False):
    """What annotate does around Ray; or what it does before it connects, which takes minutes."""
    plan = ensure_plan(config)
    try:
        targets = resolve_targets(config, plan)
        if is_planned_only:
            return False
        run = PlannedRun(config, plan, targets, weights_sha256="0" * 64, before=None)
        table, done = _begin(StartRecorder("a start"), run, "fp32")
        if not done.any():
            table.commit([shard(plan.output, [row(0)])])
    except (ConfigError, FencedError):
        return False
    return True


def race(interrupted, other, call, is_planned_only):
    """Who has done an image; None if there was no such call. The other one may have come to its plan only."""
    done = []
    Interruption.calls_left = call
    Interruption.deed = lambda: done.append(("other", has_done_an_image(other, is_planned_only)))
    done.append(("interrupted", has_done_an_image(interrupted)))
    is_over, Interruption.deed = Interruption.deed is not None, None
    return None if is_over else {name for name, is_done in done if is_done}


def assert_agree(output, generation):
    results, frozen = read_header(output, {}), read_prompts_header(output, {}, generation)
    if results is not None and results.num_images:
        pinned = json.loads(results.metadata["fingerprint"])
        assert pinned["prompts_sha256"] == (None if frozen is None else frozen.sha256)


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize(("who", "is_planned_only"), [("with prompts", False), ("without", False), ("without", True)])
def test_whenever_another_start_comes_the_results_have_the_prompts_that_are_frozen(
    tmp_path, monkeypatch, who, is_planned_only, generation
):
    monkeypatch.setattr(delta, "Table", InterruptedTable)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(saved(noise(20, 30), "PNG"))
    prompts = file_of(tmp_path, detection("0.png"))
    winners = []
    for call in range(MAX_CALLS):
        output = str(tmp_path / f"run{call}")
        for is_anew in (False, True)[:generation]:
            ensure_plan(config_of(tmp_path, output=output, replan=is_anew))
        configs = [config_of(tmp_path, output=output, prompts=prompts), config_of(tmp_path, output=output)]
        won = race(*(configs if who == "with prompts" else reversed(configs)), call, is_planned_only)
        if won is None:
            break
        winners.append(won)
        assert_agree(output, generation)
        # One of the two commands goes on.
        assert any(has_done_an_image(config) for config in configs), call
        assert_agree(output, generation)
    assert any("interrupted" in won for won in winners)
    assert any("interrupted" not in won for won in winners)
    assert call < MAX_CALLS - 1
