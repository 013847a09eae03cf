"""From the progress of a sample to rates; the progress is that of a machine that is simulated."""

import dataclasses

import pytest

from sam_pipeline.pipeline.estimating.rates import measured_rates
from sam_pipeline.pipeline.estimating.sample import Progress, Sample
from sam_pipeline.pipeline.machines.resources import Resources
from sam_pipeline.pipeline.monitor import Counts, StageTimes

CPU = Resources("cpu", 1, 1, 1, 0.25, 0.75, 0, 0, 0.25, 0.25, threads=2, finishers=2, shard_rows=4)
GPU = Resources("cuda", 1, 1, 16, 1, 2, 0.5, 0.5, 1, 0.5, 1, 2, shard_rows=256, read_tasks=8)


def progress(at_s, **stages):
    """At a time, {stage: (images, busy seconds, CPU seconds)}; the last may be left out."""
    counts = Counts()
    counts.num_by_status["ok"] = stages["decode"][0]
    return Progress(at_s, counts, {name: StageTimes(*times) for name, times in stages.items()})


def sample(*steps, num_places=1000):
    return Sample(steps, [], num_places)


def test_on_cpus_what_was_encoded_ahead_is_part_of_the_progress():
    """Work of 1 s for the encoder and 3 s for the decoder on one core: 0.25 images/s, whoever has the core."""
    ahead = sample(
        progress(10, read=(20, 1e-9), encode=(4, 4), decode=(1, 3)),
        progress(50, read=(21, 2e-9), encode=(20, 20), decode=(9, 27)),
    )
    rates = measured_rates(ahead, CPU, 2)
    assert rates.images_per_s == pytest.approx(0.25)
    assert rates.num_at_first == pytest.approx(0.25 * 4 + 0.75 * 1)
    behind = sample(
        progress(10, read=(20, 1e-9), encode=(4, 4), decode=(1, 3)),
        progress(49, read=(21, 2e-9), encode=(4, 4), decode=(14, 42)),
    )
    assert measured_rates(behind, CPU, 2).images_per_s == pytest.approx(0.25)


def test_on_cpus_that_have_a_core_for_each_stage_running_ahead_gains_nothing():
    """The decoder waits for nothing, and takes 3 s for an image."""
    ahead = sample(
        progress(10, read=(20, 1e-9), encode=(4, 4), decode=(1, 3)),
        progress(40, read=(21, 2e-9), encode=(20, 20), decode=(11, 33)),
    )
    assert measured_rates(ahead, CPU, 8).images_per_s == pytest.approx(1 / 3)
    # On two cores it would have been slower meanwhile.
    assert measured_rates(ahead, CPU, 2).images_per_s > 0.37


def test_on_cpus_waiting_for_storage_is_no_work():
    """A second to read an image, a hundredth of it on a core; 4 s to decode one. Read ahead: 40 images."""
    slow_storage = sample(
        progress(10, read=(20, 20, 0.2), encode=(1, 1), decode=(1, 4)),
        progress(50, read=(70, 70, 0.7), encode=(11, 2), decode=(11, 44)),
    )
    assert measured_rates(slow_storage, CPU, 2).images_per_s == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("num_cpus", [64, 256])
def test_decoders_that_begin_together_finish_together_which_is_no_rate(num_cpus):
    """Sixty-four decoders, 40 s an image each: 1.6 images/s. All end their first image within two seconds."""
    many = dataclasses.replace(CPU, decode_actors=64, threads=num_cpus // 64)
    together = sample(
        progress(50, read=(64, 1, 1), encode=(64, 1), decode=(1, 40)),
        progress(52, read=(64, 1, 1), encode=(64, 1), decode=(64, 64 * 40)),
        progress(92, read=(128, 2, 2), encode=(128, 2), decode=(128, 128 * 40)),
    )
    assert measured_rates(together, many, num_cpus).images_per_s == pytest.approx(1.6)


def test_on_gpus_what_was_read_ahead_is_none():
    """Reading has CPUs of its own; encoder and decoder share the device."""
    found = sample(
        progress(5, read=(64, 2), encode=(32, 1), decode=(16, 1)),
        progress(45, read=(900, 28), encode=(432, 13.5), decode=(416, 26)),
    )
    rates = measured_rates(found, GPU, 16)
    assert rates.images_per_s == pytest.approx(10)
    assert rates.bottleneck == "decode"
    assert rates.stages["read"].num_workers == 8
    assert rates.stages["read"].images_per_s == pytest.approx(8 * 836 / 26)
    assert rates.stages["decode"].busy_s_per_image == pytest.approx(25 / 400)


def test_on_gpus_that_wait_for_images_reading_is_the_progress():
    found = sample(
        progress(5, read=(64, 32), encode=(32, 1), decode=(16, 1)),
        progress(45, read=(464, 232), encode=(432, 13.5), decode=(416, 13), write=(256, 1)),
    )
    rates = measured_rates(found, GPU, 16)
    assert rates.bottleneck == "read"
    assert rates.images_per_s == pytest.approx(10, rel=0.01)


def test_a_stage_that_no_image_has_reached_has_no_rate():
    rates = measured_rates(sample(progress(4, read=(3, 1), encode=(2, 1), decode=(1, 2))), CPU, 2)
    assert rates.stages["write"].images_per_s is None
    assert rates.images_per_s == 0.25  # all that is known is when the first image was done
    assert rates.spread is None


def test_images_that_differ_spread_the_estimate():
    def decoded(*seconds):
        return sample(*(progress(10 + 3 * n, decode=(n, sum(seconds[:n]))) for n in range(1, len(seconds) + 1)))

    assert measured_rates(decoded(*[3.0] * 9), CPU, 2).spread == pytest.approx(0)
    # Of 16 images that take 2 s and 4 s in turn (the first is what the others are counted from).
    spread = measured_rates(decoded(4.0, *[2.0, 4.0] * 8), CPU, 2).spread
    assert spread == pytest.approx(2 * (1 / 3) / 16**0.5, rel=0.05)
    assert measured_rates(decoded(3.0, 2.0, 4.0), CPU, 2).spread is None


def test_of_neighbours_that_may_be_alike_more_are_needed():
    def spread(num_places):
        steps = [progress(10 + 3 * n, decode=(n, 3 * n + n % 2)) for n in range(1, 18)]
        return measured_rates(sample(*steps, num_places=num_places), CPU, 2).spread

    assert spread(3) is None
    assert spread(4) == pytest.approx(2 * spread(16))
