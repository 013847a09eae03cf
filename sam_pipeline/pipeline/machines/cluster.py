"""Connecting to Ray: the cluster that RAY_ADDRESS names, or one of this machine's own for the run's duration."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import psutil
import ray
from ray._private import worker as ray_worker

from sam_pipeline.errors import ClusterError, ConfigError, RunFailedError
from sam_pipeline.pipeline.machines.resources import Cluster
from sam_pipeline.process import stopping
from sam_pipeline.process.supervised import num_restarts
from sam_pipeline.safety.clean_text import one_line

logger = logging.getLogger(__name__)

# A local run on CPUs holds a few images in flight; Ray's default of a third of the memory would be taken from the user.
_LOCAL_OBJECT_STORE_BYTES = 2**30

_RETRIES_OUT_OF_MEMORY = 2

# If there are more workers than CPUs, as with fractions of CPUs, Ray ends those that are idle for a second. The next
# task then waits seconds while a new worker imports everything, and the tasks behind it wait too.
_IDLE_WORKER_MS = 60_000

# A Ray that is started on a busy machine may miss its own limit of half a minute.
_LOCAL_ATTEMPTS = 2

_REFUSAL_TIMEOUT_S = 5.0
_CONNECT_LIMIT_S = 20.0
# Ray asks an address twenty times, for half a minute each.
_NUM_TIMES_ASKED = "RAY_gcs_server_port_wait_time_s"

_TOKEN_REMEDY = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the one that its machines were started with"

# The head of a cluster that answered before may come back.
_COMEBACK_S = 300.0
_LOOK_INTERVAL_S = 2.0
_joined: set[str] = set()


@contextmanager
def connected(num_cpus: int | None) -> Iterator[Cluster]:
    """Be connected to Ray: as this process is already, or for the time of the block.

    Args:
        num_cpus: CPUs of a Ray started here; None takes all.

    Raises:
        ConfigError: num_cpus was given for a cluster that is there already.
        ClusterError: the cluster does not answer, or Ray cannot be started here.
        RunFailedError: Ray did not start in time.
    """
    with _printing(_log):
        if ray.is_initialized():
            yield current_cluster()
            return
        try:
            _connect(num_cpus)
            yield current_cluster()
        finally:
            if not stopping.is_stopping():
                ray.shutdown()


def is_local() -> bool:
    """Whether the Ray is one that this process has started, or would start, since RAY_ADDRESS names none."""
    if ray.is_initialized():
        node: Any = ray_worker._global_node  # Ray has no public way to say it
        return bool(node.is_head())
    return os.environ.get("RAY_ADDRESS") in (None, "", "local")


def _connect(num_cpus: int | None) -> None:
    debug = logger.isEnabledFor(logging.DEBUG)
    if not debug:
        # The driver's core worker prints warnings that nobody running a pipeline can act on.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray would start a task that was killed for its memory again and again, for ever.
    os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES_OUT_OF_MEMORY))
    if is_local():
        _start_local(num_cpus, debug)
        return
    address = os.environ["RAY_ADDRESS"]
    if num_cpus is not None:
        raise ConfigError(f"num_cpus is for a Ray started on this machine, but RAY_ADDRESS is {address}")
    _join(address, debug)


def _join(address: str, debug: bool) -> None:
    def failure(what: str, remedy: str = "") -> ClusterError:
        remedy += "unset RAY_ADDRESS to run on this machine"
        return ClusterError(f"cannot connect to Ray at {address} (RAY_ADDRESS): {what}; {remedy}")

    is_dashboard = urlsplit(address).scheme in ("http", "https")
    comeback_s = _COMEBACK_S if address in _joined or num_restarts() else 0
    deadline = time.monotonic() + comeback_s
    while (refused := _refusal(address)) is not None:
        if time.monotonic() > deadline:
            who = "no dashboard answers" if is_dashboard else "nobody answers"
            raise failure(f"{who} ({one_line(refused)})", "start that cluster, or ") from refused
        time.sleep(_LOOK_INTERVAL_S)
    if is_dashboard:
        submit = f"`ray job submit --address {address} -- sam-pipeline annotate …`"
        raise failure("that is a dashboard", f"submit the job to it with {submit}, or ")
    limit_s = max(_CONNECT_LIMIT_S, comeback_s)
    too_late = failure(
        f"no answer in {limit_s:g} s",
        f"give the address of a Ray {ray.__version__} that has this machine among its nodes, use `ray job submit` from "
        "others, or ",
    )
    timer = threading.Timer(limit_s, stopping.end_if_command_line, (too_late.exit_code, f"error: {too_late}"))
    timer.daemon = True
    timer.start()
    is_default = _NUM_TIMES_ASKED not in os.environ
    os.environ.setdefault(_NUM_TIMES_ASKED, "1")
    try:
        with _signals_kept(), _without_raw_lines(debug):
            ray.init(logging_level=_level(debug), log_to_driver=debug)
    except Exception as error:  # Ray raises of every kind, also Exception itself
        if "authentication token" in f"{error} {error.__cause__}".lower():
            raise failure("it asks for its token", f"{_TOKEN_REMEDY}, or ") from error
        raise failure(_reason(error)) from error
    finally:
        timer.cancel()
        if is_default:
            del os.environ[_NUM_TIMES_ASKED]
    _joined.add(address)


def _start_local(num_cpus: int | None, debug: bool) -> None:
    # For this cluster alone, and in no file: Ray would write one into the home folder, readable by all.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(_IDLE_WORKER_MS))
    for attempt in range(1, _LOCAL_ATTEMPTS + 1):
        try:
            with _signals_kept(), _without_raw_lines(debug):
                ray.init(
                    # "local" and not None: a stale cluster's address on this machine must not be picked up.
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=None if has_gpu() else _LOCAL_OBJECT_STORE_BYTES,
                    logging_level=_level(debug),
                    log_to_driver=debug,
                )
            return
        except Exception as error:  # Ray raises of every kind, also Exception itself
            ray.shutdown()
            _kill_what_ray_started()
            if not _is_transient(error):
                raise ClusterError(f"cannot start Ray on this machine: {_reason(error)}{_remedy(error)}") from error
            failure = error
        logger.warning("Ray did not start (attempt %d of %d): %s", attempt, _LOCAL_ATTEMPTS, _reason(failure))
    raise RunFailedError(f"Ray did not start on this machine: {_reason(failure)}; the same command resumes")


def _kill_what_ray_started() -> None:
    """End the daemons of a start that failed, which Ray forgets."""
    folder = os.path.dirname(ray.__file__)
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if any(folder in argument for argument in process.cmdline()):
                stopping.kill([process, *process.children(recursive=True)])


def _is_transient(error: Exception) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return not isinstance(error, (OSError, ValueError, TypeError))


def _remedy(error: Exception) -> str:
    if not isinstance(error, OSError):
        return ""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    folder = "/tmp" if name is None else f"{name}={os.environ[name]}"
    what = "shorter and " if "AF_UNIX" in str(error) else ""
    return f"; Ray's files are in {folder}: set RAY_TMPDIR to a {what}writable folder with space, such as /var/tmp"


def _reason(error: BaseException) -> str:
    """What happened, in one line. Ray puts whole tracebacks into messages, whose last line says it."""
    cause = error.__cause__ or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return one_line(Exception(lines[-1]) if "Traceback" in str(cause) else cause)


def _refusal(address: str) -> OSError | None:
    """Why nobody can be reached at "host:port" or "ray://host:port"; None where somebody listens, or cannot be told."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        return None  # Ray has a message for it
    if host is None or port is None:
        return None
    try:
        socket.create_connection((host, port), _REFUSAL_TIMEOUT_S).close()
    except OSError as error:
        return error
    return None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the handlers of signals: Ray sets its own for SIGTERM, in Python and in C++, which ends with a dump."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    is_terminated = False
    try:
        yield
    except SystemExit as ended:  # how Ray's handler ends
        if ended.code != signal.SIGTERM:
            raise
        is_terminated = True
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
    if is_terminated:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def _without_raw_lines(debug: bool) -> Iterator[None]:
    """Drop what Ray's C++ writes to file descriptor 2 as it starts, which no log level stops."""
    if debug:
        yield
        return
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def without_messages() -> Iterator[None]:
    """Drop what Ray says of each task whose actor is killed, whatever its log level: actors are killed on purpose."""
    with _printing(lambda *_, **__: None):
        yield


def _log(data: Mapping[str, Any], **_: Any) -> None:
    """Log what Ray says of workers that have died: it would print that on the standard output, where results are."""
    for line in data["lines"]:
        logger.info("Ray: %s", " ".join(line.split()))


@contextmanager
def _printing(function: Callable[..., None]) -> Iterator[None]:
    """Have Ray print with a function, for which it has no setting; under --debug it prints all that it likes."""
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    before = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = function
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before


def _level(debug: bool) -> int:
    return logging.INFO if debug else logging.ERROR


def current_cluster() -> Cluster:
    """What the cluster has now; needs a connection."""
    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # A head without CPUs runs no worker.
    workers = [node for node in nodes if node.get("CPU")]
    return Cluster(
        num_cpus=total.get("CPU", 0.0),
        num_gpus=total.get("GPU", 0.0),
        largest_node_cpus=max((node.get("CPU", 0.0) for node in nodes), default=0.0),
        smallest_node_memory_bytes=_smallest(workers, "memory"),
        smallest_object_store_bytes=_smallest(workers, "object_store_memory"),
        least_cpus_a_gpu=min((node["CPU"] / node["GPU"] for node in workers if node.get("GPU")), default=0.0),
        smallest_node_cpus=min((node["CPU"] for node in workers), default=0.0),
        gpus_by_resource=_gpus_by_resource(nodes),
        num_nodes=max(1, len(workers)),
    )


def _gpus_by_resource(nodes: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    counts: Counter[str] = Counter()
    for node in nodes:
        own = {*node} - {"CPU", "GPU", "memory", "object_store_memory"}
        counts.update({name: int(node.get("GPU", 0)) for name in own if not name.startswith("node:")})
    return {name: float(number) for name, number in counts.items() if number}


def check_cluster() -> None:
    """Refuse to go on if a new head has taken the place of the cluster's: Ray may not notice, and waits for ever.

    Raises:
        RunFailedError: another cluster answers at the address.
    """
    own_node_id = ray.get_runtime_context().get_node_id()
    if all(node["NodeID"] != own_node_id for node in ray.nodes()):
        raise RunFailedError("the cluster was lost, and another one answers at its address; the same command resumes")


def _smallest(nodes: Sequence[Mapping[str, float]], resource: str) -> int:
    return int(min((node[resource] for node in nodes if resource in node), default=0))


def has_gpu() -> bool:
    """Whether torch finds a GPU on this machine."""
    import torch  # slow to import: only when a cluster is started here

    return torch.cuda.is_available()
