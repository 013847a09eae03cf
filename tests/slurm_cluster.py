"""A Slurm of this machine alone: a real controller, and a daemon for each of several nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.ports import LOOPBACK, free_ports
from tests.processes import TIMEOUT_S, Program

# A job that goes back into the queue starts again when its credential has expired.
_CREDENTIAL_S = 5


@dataclass(frozen=True)
class Slurm:
    """A running cluster."""

    env: Mapping[str, str]
    """For Slurm's programs, which hand it on to jobs."""

    def run(self, *command: object) -> str:
        """Run one of Slurm's programs to its end; returns what it printed."""
        parts = [str(part) for part in command]
        done = subprocess.run(parts, env=self.env, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """What the controller says of a job."""
        fields = self.run("scontrol", "show", "job", job_id).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def wait_until(self, job_id: str, condition: Callable[[], bool]) -> None:
        """Poll a condition while a job waits or runs."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.job(job_id)["JobState"] in ("PENDING", "RUNNING"), self.job(job_id)
            assert time.monotonic() < deadline, self.job(job_id)
            time.sleep(0.2)

    def wait_for_the_end(self, job_id: str) -> dict[str, str]:
        """Wait until a job neither waits nor runs; returns what the controller says of it."""
        deadline = time.monotonic() + TIMEOUT_S
        while (job := self.job(job_id))["JobState"] in ("PENDING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < deadline, job
            time.sleep(0.5)
        return job


def missing_programs() -> list[str]:
    """Of Slurm's, those that are not installed here."""
    return [name for name in ("munged", "slurmctld", "slurmd") if shutil.which(name, path=_path()) is None]


@contextmanager
def slurm(folder: Path, env: Mapping[str, str], num_nodes: int) -> Iterator[Slurm]:
    """Run a cluster whose nodes have two CPUs, and a GPU in name only; needs root.

    Args:
        folder: an empty one, for its files; of Unix sockets too, whose paths must be short.
        env: of its daemons and its jobs.
        num_nodes: how many.
    """
    controller_port, *node_ports = free_ports(1 + num_nodes)
    ports = {f"n{number}": port for number, port in enumerate(node_ports)}
    (folder / "slurm.conf").write_text(_configuration(folder, controller_port, ports))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    (folder / "key").write_bytes(secrets.token_bytes(64))
    (folder / "key").chmod(0o400)
    munge_files = {"key-file": "key", "socket": "munge", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{flag}={folder / name}" for flag, name in munge_files.items())],
        ["slurmctld", "-D", "-c"],
        *(["slurmd", "-D", "-N", node] for node in ports),
    ]
    cluster = Slurm({**env, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path(env["PATH"])})
    idle = ("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
    daemons: list[Program] = []
    try:
        for number, command in enumerate(commands):
            (logs := folder / f"daemon-{number}").mkdir()
            daemons.append(Program(command, cluster.env, logs))
        daemons[-1].wait_until(lambda: len(_lines(cluster, *idle)) == num_nodes)
        yield cluster
    finally:
        # A failed test may leave a job, whose processes would outlive the daemons.
        subprocess.run(["scancel", "--user=root"], env=cluster.env, capture_output=True, timeout=TIMEOUT_S)
        with suppress(AssertionError):
            daemons[-1].wait_until(lambda: _lines(cluster, "squeue", "--noheader") == [])
        for daemon in reversed(daemons):
            daemon.kill()


def _lines(cluster: Slurm, *command: str) -> list[str]:
    """What a program of Slurm prints, whether it succeeds or not."""
    return subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=TIMEOUT_S).stdout.split()


def _path(path: str | None = None) -> str:
    """With the folders of daemons, which are not on everyone's."""
    return os.pathsep.join([path or os.environ["PATH"], "/usr/sbin", "/sbin"])


def _configuration(folder: Path, controller_port: int, node_ports: Mapping[str, int]) -> str:
    host = socket.gethostname()
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr={LOOPBACK} Port={port} CPUs=2 Gres=gpu:1"
        for node, port in node_ports.items()
    )
    return f"""\
ClusterName=test
SlurmctldHost={host}({LOOPBACK})
SlurmctldPort={controller_port}
SlurmUser=root
FirstJobId={1 + secrets.randbelow(10**6)}
AuthInfo=socket={folder}/munge,cred_expire={_CREDENTIAL_S}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
GresTypes=gpu
KillWait=5
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
