import weakref

import pytest
import torch

from sam_pipeline.pipeline.workers.fitting_size import FittingSize


class Device:
    """Has memory for so many."""

    def __init__(self, room):
        self.room, self.asked = room, []

    def take(self, size):
        self.asked.append(size)
        if size > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size


def test_a_size_is_halved_until_it_fits_and_stays():
    device, fitting = Device(room=5), FittingSize("crops")
    assert fitting.call(device.take, 32) == 4
    assert fitting.call(device.take, 32) == 4
    assert fitting.call(device.take, 3) == 3
    assert device.asked == [32, 16, 8, 4, 4, 3]


def test_what_does_not_fit_alone_is_an_error_after_which_others_go_on():
    device, fitting = Device(room=0), FittingSize("crops")
    with pytest.raises(torch.OutOfMemoryError):
        fitting.call(device.take, 4)
    assert device.asked == [4, 2, 1]
    device.room = 1
    assert fitting.call(device.take, 4) == 1


def test_halving_ends_at_the_least_size():
    device, fitting = Device(room=20), FittingSize("prompts", least=24)
    with pytest.raises(torch.OutOfMemoryError):
        fitting.call(device.take, 40)
    assert device.asked == [40, 24]
    with pytest.raises(torch.OutOfMemoryError):
        fitting.call(device.take, 22)
    assert device.asked[2:] == [22]


def test_other_errors_are_raised_at_once():
    sizes = []

    def fail(size):
        sizes.append(size)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        FittingSize("crops").call(fail, 8)
    assert sizes == [8]


def test_nothing_of_a_failed_call_is_held_while_it_is_called_again():
    tensors_of_calls = []

    def work(size):
        tensors = torch.zeros(1)
        tensors_of_calls.append(weakref.ref(tensors))
        if size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [tensors() for tensors in tensors_of_calls[:-1]]

    assert FittingSize("crops").call(work, 4) == [None, None]
