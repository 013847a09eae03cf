"""The job of Slurm, as ShellCheck sees it; tests/end_to_end/test_slurm_job.py runs it."""

import re

import pytest

from tests.infra.files import INFRA, found_by

SCRIPT = INFRA / "slurm" / "annotate.sbatch"


def test_shellcheck_finds_nothing():
    assert found_by("shellcheck", SCRIPT) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [('"$SLURMD_NODENAME"', "$SLURMD_NODENAME", "SC2086"), ("for _ in", "for i in", "SC2034")],
)
def test_shellcheck_finds_what_is_wrong(right, wrong, rule, tmp_path):
    assert right in SCRIPT.read_text()
    (tmp_path / "job").write_text(SCRIPT.read_text().replace(right, wrong))
    assert rule in found_by("shellcheck", tmp_path / "job")


def test_the_token_is_in_no_argument_and_the_dashboard_listens_on_loopback():
    text = SCRIPT.read_text()
    assert text.index("export RAY_AUTH_MODE=token RAY_AUTH_TOKEN") < text.index("start_ray --head")
    assert not re.search(r"\$\{?RAY_AUTH_TOKEN", text)
    assert "--dashboard-host=127.0.0.1" in text
