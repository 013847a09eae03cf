import subprocess
import sys
import time

import pytest

LOOP_IN_C = "import itertools, collections; collections.deque(itertools.repeat(0), maxlen=0)"


def run(code):
    program = f"from sam_pipeline.pipeline.workers.limits import *\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_block_that_takes_too_long_ends_the_process_even_in_a_loop_that_never_lets_go_of_the_gil():
    start = time.monotonic()
    done = run(f"with time_limit(0.5):\n    {LOOP_IN_C}")
    assert done.returncode == 1
    assert "Timeout (0:00:00.500000)!" in done.stderr
    assert time.monotonic() - start < 30


def test_a_block_that_ends_in_time_or_with_an_error_is_left_alone():
    done = run(
        "import time\n"
        "try:\n    with time_limit(0.5): 1 / 0\n"
        "except ZeroDivisionError: pass\n"
        "with time_limit(0.5): pass\n"
        "time.sleep(1); print('still here')"
    )
    assert done.stdout == "still here\n", done.stderr


def test_each_item_has_the_time_for_itself_and_whoever_takes_it_has_any():
    done = run(
        "import time\n"
        "slow = map(time.sleep, [0.4] * 4)\n"
        "for _ in each_in_time(slow, 1): time.sleep(1.2)\n"
        "print('all')\n"
        "list(each_in_time(map(time.sleep, [0.1, 30]), 1))"
    )
    assert (done.returncode, done.stdout) == (1, "all\n"), done.stderr
    assert "Timeout (0:00:01)!" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_DATA")
@pytest.mark.parametrize(
    "before",
    [
        pytest.param("limit_memory(2**28)", id="at once"),
        pytest.param(
            "limit_memory(2**28)\nwith limit_memory_after(2**28): weights = bytearray(2**29)",
            id="loading is exempt, even where there was a limit",
        ),
    ],
)
def test_allocations_beyond_the_limit_fail_and_those_within_do_not(before):
    done = run(f"{before}\nfew = bytearray(2**27)\ntry:\n    bytearray(2**29)\nexcept MemoryError: print('refused')")
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_DATA")
def test_a_limit_that_is_set_stays_whatever_the_process_has_taken_since():
    done = run(
        "limit_memory(2**28)\n"
        "before = resource.getrlimit(resource.RLIMIT_DATA)\n"
        "few = bytearray(2**27)\n"
        "limit_memory(2**28)\n"
        "print(resource.getrlimit(resource.RLIMIT_DATA) == before)"
    )
    assert done.stdout == "True\n", done.stderr


CUDA = """
import mmap
reserved = mmap.mmap(-1, 2**40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
pinned = mmap.mmap(-1, 2**30, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_DATA")
def test_mappings_as_cuda_makes_them_do_not_count():
    """Address space that nobody may touch, and shared memory."""
    done = run(f"limit_memory(2**28)\n{CUDA}\nfew = bytearray(2**27)\nprint('fits')")
    assert done.stdout == "fits\n", done.stderr
    done = run(f"limit_memory(2**28)\n{CUDA.replace('MAP_SHARED', 'MAP_PRIVATE')}")
    assert "Cannot allocate memory" in done.stderr, "private memory counts"


READING = """
import json, resource, sys
import pyarrow as pa
from sam_pipeline.errors import InputError
from sam_pipeline.pipeline.workers import limits
limits.READING_MEMORY_SHARE = 1e9 / limits._machine_bytes()
for hoard in (lambda: json.loads("[" + "[]," * 10**8 + "[]]"), lambda: pa.allocate_buffer(10**10)):
    try:
        with limits.reading_limit():
            hoard()
    except InputError as error:
        print(error)
print(len(bytes(2 * 10**9)), resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_DATA")
def test_what_takes_too_much_memory_to_read_is_one_line_and_the_limit_goes_with_it():
    done = subprocess.run([sys.executable, "-c", READING], capture_output=True, text=True, timeout=120, check=False)
    *refused, after = done.stdout.splitlines()
    assert [line.startswith("what is read takes more than 1.0 GB of memory") for line in refused] == [True, True]
    assert after == "2000000000 True", done.stderr
