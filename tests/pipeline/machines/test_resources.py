from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.config import ModelType, PoolConfig
from sam_pipeline.errors import ClusterError
from sam_pipeline.pipeline.machines.division_text import expectation
from sam_pipeline.pipeline.machines.resources import Cluster, check_batch_fits, divide


def division(pools, device, num_cpus, num_gpus, largest_node_cpus=None, cpus_a_gpu=None, model_type="vit_h"):
    """The division of a cluster of one machine, unless its largest is said to be smaller."""
    largest_node_cpus = num_cpus if largest_node_cpus is None else largest_node_cpus
    cpus_a_gpu = num_cpus / max(1, num_gpus) if cpus_a_gpu is None else cpus_a_gpu
    cluster = Cluster(num_cpus, num_gpus, largest_node_cpus, 0, 0, cpus_a_gpu, largest_node_cpus)
    return divide(pools, device, model_type, cluster)


def reserved_cpus(r):
    """Of everything at once."""
    actors = r.encode_actors * r.encode_cpus + r.decode_actors * r.decode_cpus
    return actors + r.read_tasks * r.read_cpus + r.write_tasks * r.write_cpus


def reserved_gpus(r):
    return r.encode_actors * r.encode_gpus + r.decode_actors * r.decode_gpus


@pytest.mark.parametrize(
    ("num_cpus", "encode_actors", "decode_actors", "threads"),
    [(1, 1, 1, 1), (2, 1, 1, 2), (4, 1, 1, 4), (16, 1, 4, 4), (64, 2, 16, 4)],
)
def test_on_cpus_decoders_get_the_most_and_everything_fits(num_cpus, encode_actors, decode_actors, threads):
    r = division(PoolConfig(), "auto", num_cpus, 0)
    assert (r.device, r.encode_actors, r.decode_actors, r.threads) == ("cpu", encode_actors, decode_actors, threads)
    assert r.decode_actors * r.decode_cpus == pytest.approx(num_cpus * 3 / 8)
    assert (r.encode_batch_size, r.shard_rows, r.encode_gpus, r.decode_gpus) == (1, 4, 0, 0)
    assert reserved_cpus(r) <= num_cpus


@pytest.mark.parametrize("num_gpus", [1, 8])
@pytest.mark.parametrize("num_cpus", [4, 16, 192])
def test_each_gpu_gets_an_encoder_and_a_decoder(num_cpus, num_gpus):
    r = division(PoolConfig(), "auto", num_cpus, num_gpus)
    assert (r.device, r.encode_actors, r.decode_actors) == ("cuda", num_gpus, num_gpus)
    assert (r.encode_batch_size, r.shard_rows, r.shares_gpus) == (16, 256, True)
    assert reserved_gpus(r) == num_gpus
    assert reserved_cpus(r) <= num_cpus
    assert r.encode_cpus <= 1


@given(num_cpus=st.integers(1, 4096), num_gpus=st.integers(0, 64))
def test_whatever_the_cluster_there_is_room_for_a_reader_and_a_writer_beside_all_actors(num_cpus, num_gpus):
    r = division(PoolConfig(), "auto", num_cpus, num_gpus)
    assert min(r.read_cpus, r.write_cpus, r.encode_cpus, r.decode_cpus) > 0
    assert reserved_cpus(r) <= num_cpus + 1e-9
    assert reserved_gpus(r) <= num_gpus


@given(num_cpus=st.integers(1, 4096))
def test_no_actor_on_cpus_needs_a_machine_larger_than_four_cpus(num_cpus):
    # The cluster's CPUs may be spread over many machines: an actor larger than each of them would wait for ever.
    r = division(PoolConfig(), "cpu", num_cpus, 0)
    assert max(r.encode_cpus, r.decode_cpus) <= 4


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "read_tasks", "write_tasks"),
    [(1, 0, 3, 1), (2, 0, 3, 1), (8, 0, 3, 2), (16, 1, 11, 4), (64, 8, 39, 16)],
)
def test_a_quarter_of_the_cpus_or_more_is_left_for_further_reading(num_cpus, num_gpus, read_tasks, write_tasks):
    r = division(PoolConfig(), "auto", num_cpus, num_gpus)
    assert (r.read_tasks, r.write_tasks) == (read_tasks, write_tasks)


@pytest.mark.parametrize(
    ("model_type", "num_cpus", "num_gpus", "decode_cpus", "finishers"),
    [("vit_h", 16, 1, 1.08, 2), ("vit_b", 16, 1, 1.2, 2), ("vit_b", 192, 8, 1.2, 2), ("vit_h", 2, 1, 0.75, 2)],
)
def test_a_decoder_gets_the_cpus_that_finish_masks_at_the_rate_of_its_gpu(
    model_type, num_cpus, num_gpus, decode_cpus, finishers
):
    r = division(PoolConfig(), "auto", num_cpus, num_gpus, model_type=model_type)
    assert (r.decode_cpus, r.finishers) == (decode_cpus, finishers)
    assert division(PoolConfig(decode_cpus=9), "auto", 32, 1).finishers == 8


@pytest.mark.parametrize("model_type", get_args(ModelType))
def test_there_is_an_expectation_for_every_model(model_type):
    r = division(PoolConfig(), "auto", 16, 1, model_type=model_type)
    assert "networks: 1 GPU, " in expectation(r, model_type, 16)


def test_what_is_expected_of_each_stage_is_said_and_which_one_holds_the_others_back():
    r = division(PoolConfig(), "auto", 16, 1)
    assert expectation(r, "vit_h", 16) == (
        "reading: 11 of 16 CPUs, 275 images/s; networks: 1 GPU, 40 images/s; finishing masks: 0.25 of 16 CPUs, "
        "125 images/s; expected bottleneck, for images of 1500 x 2250 pixels and 32 x 32 points: networks"
    )
    r = division(PoolConfig(), "auto", 32, 8, model_type="vit_b")
    assert expectation(r, "vit_b", 32).endswith("32 x 32 points: reading")
    r = division(PoolConfig(encode_actors=1, decode_actors=3), "auto", 16, 4)
    assert "networks: 2 GPUs, 80 images/s" in expectation(r, "vit_h", 16)


@pytest.mark.parametrize(
    ("pools", "shares_gpus"),
    [
        ({}, True),
        ({"decode_actors": 4, "decode_gpus": 0.25}, True),
        ({"encode_actors": 1, "decode_actors": 3, "encode_gpus": 0.5}, False),
        ({"encode_actors": 1, "decode_actors": 1, "encode_gpus": 1, "decode_gpus": 1}, False),
    ],
)
def test_encoders_and_decoders_share_gpus_unless_they_are_divided_otherwise(pools, shares_gpus):
    assert division(PoolConfig(**pools), "auto", 32, 2).shares_gpus == shares_gpus
    assert not division(PoolConfig(), "cpu", 32, 2).shares_gpus


def test_a_batch_that_the_object_store_cannot_hold_is_refused_with_the_arithmetic():
    with pytest.raises(ClusterError) as caught:
        check_batch_fits(40, "fp32", 2**28)
    assert str(caught.value) == (
        "the run cannot be scheduled: a batch of 40 crops x (3 MiB of pixels + 4 MiB of embedding) = 280 MiB, Ray's "
        "object store on the smallest machine has 256 MiB; lower --encode-batch-size or --crop-n-layers, or enlarge "
        "the store"
    )
    check_batch_fits(40, "fp16", 2**28)
    check_batch_fits(40, "bf16", 2**28)
    check_batch_fits(40, "fp32", 0)


def test_actors_that_share_a_gpu_fit_on_its_machine_whatever_cpus_others_have():
    r = division(PoolConfig(), "auto", 72, 8, cpus_a_gpu=1)
    assert r.gpu_bundle == {"GPU": 1, "CPU": 0.5}
    assert division(PoolConfig(), "auto", 16, 1, largest_node_cpus=14, cpus_a_gpu=2).gpu_bundle["CPU"] == 1
    with pytest.raises(ClusterError, match=r"the actors of a GPU reserve 10 CPUs, and a machine has 8 for each"):
        division(PoolConfig(encode_cpus=5, decode_cpus=5), "auto", 24, 2, largest_node_cpus=8, cpus_a_gpu=8)


def test_actors_that_take_all_but_two_tasks_leave_one_of_each():
    r = division(PoolConfig(encode_cpus=0.4, decode_cpus=1.1), "cpu", 2, 0)
    assert (r.read_tasks, r.write_tasks) == (1, 1)


def test_the_cpu_is_used_when_asked_for_or_when_there_is_no_whole_gpu():
    assert division(PoolConfig(), "cpu", 4, 8).device == "cpu"
    assert division(PoolConfig(), "auto", 4, 0.5).device == "cpu"


COUNTS = {"encode_actors": 2, "decode_actors": 3, "encode_batch_size": 5, "threads": 7, "shard_rows": 9}
CPUS = {"encode_cpus": 0.5, "decode_cpus": 0.7, "read_cpus": 0.3}
GPUS = {"encode_gpus": 0.5, "decode_gpus": 0.25}


@pytest.mark.parametrize(
    ("device", "num_gpus", "settings"), [("auto", 0, COUNTS | CPUS), ("cuda", 2, COUNTS | CPUS | GPUS)]
)
def test_what_the_user_sets_wins(device, num_gpus, settings):
    r = division(PoolConfig(**settings), device, 16, num_gpus)
    assert {name: getattr(r, name) for name in settings} == settings


def test_actors_that_leave_no_cpu_for_reading_are_refused_with_the_arithmetic():
    with pytest.raises(ClusterError) as caught:
        division(PoolConfig(encode_cpus=1, decode_cpus=1), "cpu", 2, 0)
    assert str(caught.value) == (
        "the run cannot be scheduled: 1 encoder x 1 CPUs + 1 decoder x 1 + reading 0.25 + writing 0.25 = 2.5 CPUs, "
        "the cluster has 2; lower --encode-actors, --decode-actors or their --*-cpus"
    )


def test_more_gpus_than_there_are_are_refused_with_the_arithmetic():
    with pytest.raises(ClusterError, match=r"2 encoder x 0\.5 GPUs \+ 1 decoder x 0\.5 = 1\.5 GPUs, the cluster has 1"):
        division(PoolConfig(encode_actors=2), "cuda", 8, 1)


def test_cuda_without_a_whole_gpu_is_refused_with_a_way_out():
    with pytest.raises(ClusterError, match=r"= 1 GPUs, the cluster has 0.5; .* use --device cpu"):
        division(PoolConfig(), "cuda", 8, 0.5)


def test_cuda_without_any_gpu_is_refused_with_two_ways_out():
    with pytest.raises(ClusterError, match=r"the cluster has no GPU: --gpus N waits .* --device cpu"):
        division(PoolConfig(), "cuda", 8, 0)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_machines_with_gpus_that_are_chosen_and_not_there_are_refused(device):
    pools = PoolConfig(encode_on="accelerator_type:H100", decode_on="accelerator_type:L4")
    with pytest.raises(ClusterError, match=r"--encode-on accelerator_type:H100 .* the cluster has none: start them"):
        division(pools, device, 16, 0)


def test_shares_of_a_gpu_can_be_asked_for():
    r = division(PoolConfig(encode_gpus=0.2, decode_gpus=0.2), "cuda", 8, 0.5)
    assert reserved_gpus(r) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_more_actors_than_cpus_are_refused_unless_their_share_is_said(name):
    with pytest.raises(ClusterError, match=f"--{name}-actors 5, the cluster has 4 CPUs; .* --{name}-cpus"):
        division(PoolConfig(**{f"{name}_actors": 5}), "cpu", 4, 0)
    assert division(PoolConfig(**{f"{name}_actors": 5, f"{name}_cpus": 0.1}), "cpu", 4, 0)


def test_an_actor_has_no_more_threads_than_the_smallest_machine_has_cpus():
    cluster = Cluster(6, 0, 4, 0, 0, 0, smallest_node_cpus=2)
    r = divide(PoolConfig(), "cpu", "vit_t", cluster)
    assert (r.threads, r.decode_actors) == (2, 3)


def test_few_actors_on_many_machines_fit_on_one_each():
    r = divide(PoolConfig(encode_actors=1, decode_actors=1), "cpu", "vit_t", Cluster(12, 0, 4, 0, 0, 0, 4))
    assert r.decode_cpus == 3
    assert r.encode_cpus <= 3


LARGE_AND_SMALL = Cluster(64, 6, 16, 0, 0, 8, 8, {"accelerator_type:H100": 2, "small": 4})


def test_encoders_and_decoders_get_gpus_of_their_own():
    r = divide(PoolConfig(encode_on="accelerator_type:H100", decode_on="small"), "auto", "vit_h", LARGE_AND_SMALL)
    assert (r.encode_actors, r.encode_gpus, r.encode_on) == (2, 1, "accelerator_type:H100")
    assert (r.decode_actors, r.decode_gpus, r.decode_on) == (4, 1, "small")
    assert not r.shares_gpus


def test_gpus_of_their_own_are_not_shared_even_where_halves_of_them_would_do():
    pools = PoolConfig(encode_on="small", decode_on="small", encode_gpus=0.5, decode_gpus=0.5)
    assert not divide(pools, "auto", "vit_h", LARGE_AND_SMALL).shares_gpus


def test_a_resource_that_no_machine_with_gpus_has_is_refused_with_those_that_there_are():
    with pytest.raises(ClusterError, match="the resource L4; such machines have: accelerator_type:H100, small"):
        divide(PoolConfig(encode_on="L4", decode_on="small"), "auto", "vit_h", LARGE_AND_SMALL)


def test_no_more_gpus_are_used_than_are_asked_for():
    assert division(PoolConfig(gpus=2), "auto", 64, 4).encode_actors == 2


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(ClusterError, match="the cluster has 0"):
        division(PoolConfig(), "auto", 0, 0)


def test_an_actor_that_fits_the_cluster_but_none_of_its_machines_is_refused() -> None:
    with pytest.raises(ClusterError, match="reserves 4 CPUs, the largest machine has 2"):
        division(PoolConfig(decode_cpus=4, decode_actors=1), "cpu", num_cpus=16, num_gpus=0, largest_node_cpus=2)
