"""The processes on a node, and their memory."""

from __future__ import annotations

from dataclasses import dataclass

from tests.harness.cluster import Cluster

# All processes of ours are named so. It does not find itself, by the brackets. What has no Pss ends just now.
LIST = """
for process in /proc/[0-9]*; do
    pss=$(awk '/^Pss:/ { print $2 }' $process/smaps_rollup)
    ours=$(tr '\\0' ' ' <$process/cmdline | grep -c '[o]ci-criu-shim')
    user=$(stat --format=%U $process) && test -n "$pss" && echo ${process#/proc/} $user $pss $ours
done 2>/dev/null; true
"""


@dataclass(frozen=True)
class Process:
    """A process of a node's."""

    pid: str
    user: str
    mib: float
    """Its proportional set size."""
    is_ours: bool


def processes(cluster: Cluster, node: str) -> list[Process]:
    """Return all processes on a node."""
    return parse(cluster.exec(node, ["sh", "-c", LIST], "root").stdout)


def parse(said: str) -> list[Process]:
    """Return the processes that LIST has named."""
    fields = (line.split() for line in said.splitlines())
    return [Process(pid, user, int(pss) / 1024, ours != "0") for pid, user, pss, ours in fields]


def memory_of_job(cluster: Cluster, node: str) -> float:
    """Return how many MiB alice's programs have on a node, without ours beside them."""
    return sum(process.mib for process in processes(cluster, node) if process.user == "alice" and not process.is_ours)
