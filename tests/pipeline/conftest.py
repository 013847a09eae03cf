import resource

import pytest


@pytest.fixture(autouse=True)
def _same_limits_after_a_test():
    """Stages limit the memory of their process, which here is that of all tests, and of the processes these start."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)
