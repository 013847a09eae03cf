"""Fixtures that every test may use."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from sam_pipeline.model.checkpoints import fetch_checkpoint
from tests.processes import Start, clean_env, starting
from tests.s3_server import s3

__all__ = ["s3"]

# A busy machine is not a failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell that starts the tests in the background ignores SIGINT for them, nohup ignores SIGHUP; the programs that the
# tests start would ignore them too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def vit_t_checkpoint() -> Path:
    """MobileSAM's real weights, fetched into the cache on first use."""
    return fetch_checkpoint("vit_t", progress=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes in one thread: sums of floats depend on how they are divided, and threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_env(vit_t_checkpoint: Path) -> Iterator[dict[str, str]]:
    """An environment with the weights, without credentials or clusters of whoever runs the tests."""
    with clean_env(vit_t_checkpoint) as env:
        yield env


@pytest.fixture(scope="session")
def start(base_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start programs; whatever is still running in the end is killed."""
    with starting(base_env, lambda: tmp_path_factory.mktemp("program")) as start_program:
        yield start_program
