import pytest


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path, monkeypatch):
    """The Store of the test's module, on each filesystem."""
    return request.module.Store(request.param, tmp_path, monkeypatch)


@pytest.fixture
def memory(request, tmp_path, monkeypatch):
    """The Store of the test's module, in memory."""
    return request.module.Store("memory", tmp_path, monkeypatch)
