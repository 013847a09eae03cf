"""The job of infra/slurm on a real Slurm: it starts Ray on several nodes, and resumes the run when its time is over."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.end_to_end.settings import NUM_PHOTOS, SETTINGS, SMALL_SHARDS
from tests.end_to_end.tables import comparable, num_committed, read_rows
from tests.processes import SCRIPTS
from tests.slurm_cluster import missing_programs, slurm

pytestmark = [
    pytest.mark.weights,
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.skipif(bool(missing_programs()), reason=f"Slurm is not installed: no {', '.join(missing_programs())}"),
    pytest.mark.skipif(os.getuid() != 0, reason="Slurm's daemons start jobs as their users, which only root may do"),
]

SCRIPT = Path(__file__).parents[2] / "infra" / "slurm" / "annotate.sbatch"
# What these nodes have; the run does not use their GPUs, which are there in name only.
NODES = ("--nodes=2", "--cpus-per-task=2", "--gpus-per-node=1")
ON_CPUS = ("--device", "cpu")


def test_a_job_whose_time_is_over_goes_back_into_the_queue_and_resumes(cluster, photos, undisturbed, tmp_path):
    output, log = tmp_path / "masks", tmp_path / "log"
    arguments = ("--input", photos, "--output", output, *SETTINGS, *SMALL_SHARDS, *ON_CPUS)
    job_id = cluster.run("sbatch", "--parsable", *NODES, f"--output={log}", SCRIPT, *arguments).strip()
    cluster.wait_until(job_id, lambda: num_committed(str(output)) > 0)
    # What Slurm does two minutes before the end; a limit of some minutes would take as long.
    cluster.run("scancel", "--batch", "--signal=USR1", job_id)
    job = cluster.wait_for_the_end(job_id)
    shutil.rmtree(f"/tmp/ray-{job_id}")

    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    joined = re.findall(r"^(\d) of 2 machines have joined$", log.read_text(), flags=re.MULTILINE)
    assert joined == ["2", "2"]
    assert comparable(read_rows(str(output))) == comparable(undisturbed.rows)
    (num_annotated,) = re.findall(r"^annotated now +(\d)$", log.read_text(), flags=re.MULTILINE)
    assert 0 < int(num_annotated) < NUM_PHOTOS, "the second start does what the first has left"


@pytest.mark.parametrize("is_first", [True, False], ids=["the first", "another"])
def test_a_job_that_loses_a_machine_goes_back_into_the_queue_and_resumes(
    cluster, photos, undisturbed, tmp_path, is_first
):
    output, log = tmp_path / "masks", tmp_path / "log"
    arguments = ("--input", photos, "--output", output, *SETTINGS, *SMALL_SHARDS, *ON_CPUS)
    job_id = cluster.run("sbatch", "--parsable", *NODES, f"--output={log}", SCRIPT, *arguments).strip()
    cluster.wait_until(job_id, lambda: num_committed(str(output)) > 0)
    first = cluster.job(job_id)["BatchHost"]
    lost = first if is_first else {"n0": "n1", "n1": "n0"}[first]
    cluster.run("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=lost")
    cluster.wait_until(job_id, lambda: cluster.job(job_id)["Restarts"] == "1")
    cluster.run("scontrol", "update", f"NodeName={lost}", "State=RESUME")
    job = cluster.wait_for_the_end(job_id)
    shutil.rmtree(f"/tmp/ray-{job_id}")

    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    assert comparable(read_rows(str(output))) == comparable(undisturbed.rows)


@pytest.fixture
def cluster(base_env):
    env = {name: value for name, value in base_env.items() if not name.startswith("RAY_")}
    env["PATH"] = os.pathsep.join([str(SCRIPTS), env["PATH"]])  # jobs say `ray` and `sam-pipeline`
    # Not pytest's folder: the paths of Unix sockets must stay short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder), env, num_nodes=2) as running:
        yield running
