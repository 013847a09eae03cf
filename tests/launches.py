"""Which device is current when Triton launches a kernel: it must be that of the tensors, as in `cuda:1`."""

from contextlib import contextmanager

import torch


def watch_launches(monkeypatch, module, *names):
    """Returns a list that receives, for each launch of these kernels, the device that was made current for it."""
    current, launched = [None], []
    others = torch.cuda.device_of  # watches kernels of another module, perhaps

    @contextmanager
    def device_of(tensor):
        current.append(tensor.device)
        with others(tensor):
            yield
        current.pop()

    class Watched:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launched.append(current[-1])
            return self.kernel[grid]

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    for name in names:
        monkeypatch.setattr(module, name, Watched(getattr(module, name)))
    return launched
