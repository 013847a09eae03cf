"""From a bucket to a bucket on a Ray cluster, with the job script and Ray's own job submission."""

import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pycocotools import mask as coco_mask

from tests.clusters import ray_head
from tests.end_to_end.pictures import HEIGHT, WIDTH
from tests.end_to_end.settings import NUM_PHOTOS, SETTINGS, SMALL_SHARDS
from tests.end_to_end.tables import comparable, num_data_files, read_rows
from tests.processes import SCRIPTS

pytestmark = [pytest.mark.weights, pytest.mark.s3, pytest.mark.slow]

JOBS = Path(__file__).parents[2] / "jobs"


def test_a_submitted_job_gives_the_rows_of_a_local_run(s3, cluster, ray_env, start, photos, undisturbed):
    bucket = s3.create_bucket()
    input_uri, output = s3.put_folder(bucket, "photos", photos), f"s3://{bucket}/runs/1"
    submit = ("job", "submit", "--address", cluster, "--working-dir", JOBS, "--", "python", "annotate.py")
    arguments = ("--input", input_uri, "--output", output, *SETTINGS, *SMALL_SHARDS)
    submitted = start(*submit, *arguments, script="ray", env=ray_env).wait()

    assert submitted.exit_code == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout
    assert f"{NUM_PHOTOS} ok" in submitted.stdout
    rows = read_rows(output, s3.storage_options)
    assert [row["uri"] for row in rows] == [f"{input_uri}/{index:02}.png" for index in range(NUM_PHOTOS)]
    assert comparable(rows) == comparable(undisturbed.rows)
    assert num_data_files(output, s3.storage_options) == 1
    areas = [(coco_mask.area(mask["segmentation"]), mask["area"]) for row in rows for mask in row["masks"]]
    assert all(decoded == stored for decoded, stored in areas)
    assert all(mask["segmentation"]["size"] == [HEIGHT, WIDTH] for row in rows for mask in row["masks"])

    assert s3.secret_key not in submitted.stdout + submitted.stderr
    ray_folder = Path(ray_env["RAY_TMPDIR"])
    assert files_with("annotate.py", ray_folder), "these are not the logs of the cluster"
    assert files_with(s3.secret_key, ray_folder) == []
    for key in s3.list_keys(bucket, "runs/"):
        assert s3.secret_key.encode() not in s3.get(bucket, key), key


def test_the_cluster_answers_nobody_without_the_token(cluster):
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(f"{cluster}/api/jobs/")
    refused.value.close()


@pytest.fixture(scope="module")
def ray_env(base_env, s3, tmp_path_factory):
    """What the cluster and its users have in common; credentials are the cluster's, as from an instance role."""
    home = tmp_path_factory.mktemp("home")  # so that nothing of the user's is found there
    path = os.pathsep.join([str(SCRIPTS), base_env["PATH"]])  # jobs say `python`
    return base_env | s3.env | {"HOME": str(home), "PATH": path}


@pytest.fixture(scope="module")
def cluster(ray_env, start):
    """The address, for job submission, of a cluster of one head node with three CPUs."""
    with ray_head(start, ray_env, num_cpus=3, object_store_bytes=2**29) as head:
        yield head.dashboard


def files_with(text, folder):
    """Files below a folder, Ray's logs among them, that hold a text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
