"""A node: a tree of processes in namespaces and control groups of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import cgroups, conf, network
from .errors import ClusterError
from .plan import Plan
from .process import DIE_WITH_PARENT, spawn, tail
from .settings import CONTROLLER, REPOSITORY, Instance, Settings

NAMESPACES = ("--net", "--mount", "--propagation=private", "--pid", "--uts", "--ipc", "--cgroup", "--time")


@dataclass(frozen=True)
class Node:
    """A running node."""

    name: str
    process: subprocess.Popen[bytes]
    """unshare(1), the parent of the node's init; it ends when init ends."""
    pid: int
    """The init's process number on the host."""
    pidfd: int

    def kill(self) -> None:
        """Power loss: nothing in the node gets to run again."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> int:
        os.close(self.pidfd)
        return self.process.wait()


def clock_offsets(index: int, *, again: bool) -> tuple[int, int]:
    """Seconds that the monotonic and the boot clock of a node are ahead of the host's: different on every node.

    When a node boots again, its clocks begin at 0: Slurm sees by the uptime that the node lost its jobs.
    """
    if again:
        return -int(time.clock_gettime(time.CLOCK_MONOTONIC)), -int(time.clock_gettime(time.CLOCK_BOOTTIME))
    monotonic = 10_000 + 7_000 * index
    return monotonic, monotonic + 2_500 + 1_000 * index


def boot(settings: Settings, instance: Instance, name: str, lower: tuple[Path, ...]) -> Node:
    """Start a node and return when its network is there. Raise ClusterError with what it said."""
    index = settings.all_nodes().index(name)
    offsets = clock_offsets(index, again=instance.node_data(name).exists())
    instance.log(name).mkdir(parents=True, exist_ok=True)
    cgroups.remove_node(instance.name, name)
    groups = cgroups.create(instance.name, name)
    process = _launch(groups, offsets, instance.log(name) / "boot.log")
    try:
        pid = _wait_until_in_namespaces(process)
        cgroups.settle(instance.name, name, pid, process.pid)
        _say(process, json.dumps(asdict(_plan(settings, instance, name, lower))))
        network.connect(name, pid, index)
        _say(process, "go")
        _hang_up(process)
        return Node(name, process, pid, os.pidfd_open(pid))
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, OSError):
            log = (instance.log(name) / "boot.log").read_text()
            raise ClusterError(f"{name} did not boot: {error}\n{tail(log)}") from error
        raise


def _plan(settings: Settings, instance: Instance, name: str, lower: tuple[Path, ...]) -> Plan:
    here, log = instance, instance.log(name)
    binds = {
        "/home": here.home,
        "/shared": here.shared,
        "/etc/slurm": here.conf,
        "/var/log/slurm": log,
        "/src": REPOSITORY,
    }
    return Plan(
        hostname=name,
        lower=tuple(map(str, lower)),
        directory=str(here.node_data(name)),
        binds={target: str(source) for target, source in binds.items()},
        files=_files(settings, name),
        hierarchies=tuple(tree.controllers for tree in cgroups.hierarchies()),
        role="controller" if name == CONTROLLER else "compute",
    )


def _files(settings: Settings, name: str) -> dict[str, str]:
    addresses = {node: network.address(index) for index, node in enumerate(settings.all_nodes())}
    subids = "alice:100000:65536\nbob:165536:65536\n" if settings.subids else ""
    return {
        "/etc/hosts": conf.hosts(addresses),
        "/etc/hostname": name + "\n",
        "/etc/subuid": subids,
        "/etc/subgid": subids,
        "/run/init.py": Path(__file__).with_name("init.py").read_text(),
    }


def _launch(groups: tuple[Path, ...], offsets: tuple[int, int], log: Path) -> subprocess.Popen[bytes]:
    clocks = (f"--monotonic={offsets[0]}", f"--boottime={offsets[1]}")
    unshare = ("unshare", *NAMESPACES, *clocks, "--fork", "--kill-child=KILL", "--")
    program = (sys.executable, "-m", "tests.harness.cluster.nodeinit")
    argv = [*DIE_WITH_PARENT, *cgroups.enter(groups), *unshare, *program]
    with log.open("wb") as stderr:
        return spawn(argv, stdin=subprocess.PIPE, stderr=stderr, cwd=REPOSITORY)


def _wait_until_in_namespaces(process: subprocess.Popen[bytes]) -> int:
    """Return the host's pid of the node's init."""
    assert process.stdout
    with process.stdout as out:
        if out.readline() != b"ready\n":
            raise OSError("it ended before it was in its namespaces")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return int(children)


def _say(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.close()
