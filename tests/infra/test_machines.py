"""CPUs for each GPU: what infra/ asks for is what the division needs to keep a GPU busy, and no less would do."""

import re

import pytest

from sam_pipeline.config import PoolConfig
from sam_pipeline.pipeline.machines.division_text import expectation
from sam_pipeline.pipeline.machines.resources import Cluster, divide
from tests.infra.files import INFRA, documents

MODELS = ("vit_t", "vit_b", "vit_l", "vit_h")
NUM_GPUS = (1, 2, 3, 4, 8, 16)
CPUS_A_GPU = 7
"""What infra/README.md says."""


def are_gpus_busy(model_type, num_gpus, cpus_a_gpu):
    """Whether machines of one GPU each read images and finish masks as fast as their GPUs compute."""
    num_cpus = cpus_a_gpu * num_gpus
    cluster = Cluster(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        largest_node_cpus=cpus_a_gpu,
        smallest_node_cpus=cpus_a_gpu,
        smallest_node_memory_bytes=40 * 2**30,
        smallest_object_store_bytes=8 * 2**30,
        least_cpus_a_gpu=cpus_a_gpu,
    )
    expected = expectation(divide(PoolConfig(), "cuda", model_type, cluster), model_type, num_cpus)
    rates = {stage: int(rate) for stage, rate in re.findall(r"(\w[a-z ]*): [^;]*?, (\d+) images/s", expected)}
    assert len(rates) == 3
    return min(rates.values()) == rates["networks"]


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("num_gpus", NUM_GPUS)
def test_these_cpus_keep_every_gpu_busy(model_type, num_gpus):
    assert are_gpus_busy(model_type, num_gpus, CPUS_A_GPU)


@pytest.mark.parametrize("num_gpus", NUM_GPUS)
def test_one_cpu_less_does_not(num_gpus):
    assert not all(are_gpus_busy(model, num_gpus, CPUS_A_GPU - 1) for model in MODELS)


@pytest.mark.parametrize("model_type", ["vit_l", "vit_h"])
def test_five_cpus_are_enough_for_the_large_models(model_type):
    assert all(are_gpus_busy(model_type, num_gpus, 5) for num_gpus in NUM_GPUS)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_workers_on_kubernetes_have_them(name):
    (document,) = documents(f"kubernetes/{name}")
    (workers,) = document["spec"].get("rayClusterSpec", document["spec"])["workerGroupSpecs"]
    (ray,) = workers["template"]["spec"]["containers"]
    limits = ray["resources"]["limits"]
    assert int(limits["cpu"]) == CPUS_A_GPU * int(limits["nvidia.com/gpu"])


def test_workers_on_aws_have_them():
    (cluster,) = documents("aws/ray-cluster.yaml")
    machine = cluster["available_node_types"]["gpu-spot"]["resources"]
    assert machine["CPU"] >= CPUS_A_GPU * machine["GPU"]


def test_machines_of_slurm_have_them():
    script = (INFRA / "slurm" / "annotate.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\d+)$", script, flags=re.MULTILINE))
    assert int(asked["cpus-per-task"]) == CPUS_A_GPU * int(asked["gpus-per-node"])


def test_the_page_says_the_same():
    page = " ".join((INFRA / "README.md").read_text().split())
    assert f"CPUs for each GPU with `vit_h` and `vit_l`, and {CPUS_A_GPU} with the other models" in page
