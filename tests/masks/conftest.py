import os

import pytest
import torch

from tests.small_sams import make_blob_sam, make_picture, make_tiny_sam

# Before anything imports Triton: kernels then run on the CPU, interpreted. Where there is a GPU, tests/gpu runs them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def tiny_sam():
    """See `make_tiny_sam`."""
    return make_tiny_sam()


@pytest.fixture(scope="session")
def blob_sam():
    """See `make_blob_sam`."""
    return make_blob_sam()


@pytest.fixture(scope="session")
def picture():
    """A function (H, W, seed) → smooth random RGB bytes."""
    return make_picture
