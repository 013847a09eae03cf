"""What is refused before the input is listed, and before workers start."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from sam_pipeline.config import AnnotateConfig, InputConfig, ModelConfig, PoolConfig
from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.machines import suitability
from sam_pipeline.pipeline.machines.resources import Cluster
from sam_pipeline.pipeline.machines.suitability import check_all_machines_see, check_cluster_suits
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.storage.tables.plan import read_planned
from tests.configs import plan_config
from tests.storage.image_files import noise, saved

ONE, TWO = "1" * 56, "2" * 56
NODES = [{"NodeID": name, "NodeManagerHostname": f"host-{name}", "Alive": True} for name in (ONE, TWO)]


@pytest.fixture
def a_cluster(monkeypatch):
    """A cluster of 4 CPUs at RAY_ADDRESS."""

    @contextmanager
    def connected(num_cpus):
        yield Cluster(4, 0, 4, 0, 0, 0, 4)

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(suitability, "connected", connected)
    monkeypatch.setattr(suitability.ray, "nodes", lambda: [NODES[0]])


def config_of(device="auto", output="s3://bucket/out", **pools):
    return AnnotateConfig(output=output, model=ModelConfig(device=device), pools=PoolConfig(**pools))


def test_pools_that_are_larger_than_the_cluster_are_refused(a_cluster):
    with pytest.raises(ClusterError, match="--decode-actors 9, the cluster has 4 CPUs"):
        check_cluster_suits(config_of(decode_actors=9))


def test_gpus_that_are_not_there_are_refused_unless_they_are_waited_for(a_cluster):
    with pytest.raises(ClusterError, match="the cluster has no GPU: --gpus N waits"):
        check_cluster_suits(config_of("cuda"))
    check_cluster_suits(config_of("cuda", gpus=2))


def test_this_machine_is_asked_for_its_gpu_without_starting_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(suitability, "has_gpu", lambda: False)
    on_two_kinds = {"encode_on": "accelerator_type:H100", "decode_on": "accelerator_type:L4"}
    asking = [config_of("cuda"), config_of(gpus=4), config_of(**on_two_kinds)]
    for config in asking:
        with pytest.raises(ClusterError, match="torch finds none on this machine: set RAY_ADDRESS"):
            check_cluster_suits(config)
    check_cluster_suits(config_of())
    check_cluster_suits(config_of("cpu", **on_two_kinds))
    monkeypatch.setattr(suitability, "has_gpu", lambda: True)
    for config in asking:
        check_cluster_suits(config)


@pytest.fixture
def machines(monkeypatch):
    """Two machines, of which the second sees what its set holds."""
    seen = set()
    nodes = [*NODES, {"NodeID": "gone", "NodeManagerHostname": "host-gone", "Alive": False}]

    def options(scheduling_strategy):
        is_second = scheduling_strategy.node_id == TWO
        return SimpleNamespace(remote=lambda paths: [path for path in paths if is_second and path not in seen])

    monkeypatch.setattr(suitability.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(suitability.ray, "remote", lambda **_: lambda function: SimpleNamespace(options=options))
    monkeypatch.setattr(suitability.ray, "get", lambda found, timeout: found)
    return SimpleNamespace(nodes=nodes, seen=seen)


def test_a_disk_that_another_machine_does_not_see_is_refused_by_the_names_of_both(machines, tmp_path):
    with pytest.raises(
        ClusterError, match=rf"^{tmp_path} is on a disk that 1 of 2 machines do not see, such as host-{TWO}"
    ):
        check_all_machines_see(["s3://bucket/out", str(tmp_path)])
    machines.seen.add(str(tmp_path))
    check_all_machines_see([str(tmp_path)])


def test_a_planned_image_on_such_a_disk_is_refused_too(machines, tmp_path):
    (tmp_path / "a 100%.png").write_bytes(saved(noise(4, 4), "PNG"))
    output = str(tmp_path / "run")
    ensure_plan(plan_config(output=output, input=str(tmp_path)))
    (image,) = read_planned(output, np.arange(1), {})["uri"].to_pylist()
    with pytest.raises(ClusterError, match=r"100%\.png is on a disk that 1 of 2 machines do not see"):
        check_all_machines_see([image])


def test_machines_of_one_name_are_told_apart(machines, tmp_path):
    # The one that sees everything is asked last.
    machines.nodes[:] = [node | {"NodeManagerHostname": "ubuntu"} for node in reversed(NODES)]
    with pytest.raises(ClusterError, match="1 of 2 machines do not see"):
        check_all_machines_see([str(tmp_path)])


@pytest.mark.parametrize("name", ["", "new", "new/run"])
def test_an_output_on_such_a_disk_is_refused_before_the_input_is_listed_though_all_have_a_folder_of_its_name(
    a_cluster, machines, tmp_path, name
):
    machines.seen.add(str(tmp_path))
    output = str(tmp_path / name)
    with pytest.raises(ClusterError, match=rf"^{output} is on a disk"):
        check_cluster_suits(config_of(output=output))
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_images_need_not_be_seen_by_all(a_cluster, machines, tmp_path):
    (tmp_path / "images.txt").write_text("s3://bucket/a.jpg")
    images = InputConfig(input=str(tmp_path / "images.txt"))
    check_cluster_suits(AnnotateConfig(output="s3://bucket/out", images=images))


def test_places_on_a_single_machine_and_remote_ones_are_not_asked_for(machines, tmp_path):
    check_all_machines_see(["s3://bucket/out", str(tmp_path / "a*.png")])
    machines.nodes.pop(1)
    check_all_machines_see([str(tmp_path)])
