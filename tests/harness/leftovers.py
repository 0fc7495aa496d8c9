"""What tests leave on a cluster's nodes: what is there when nothing runs, and was not there before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.process import tail
from tests.harness.jobs import CHECKPOINTS

PROGRAM = "/src/tests/harness/programs/present.py"
SETTLING = 15
"""Seconds that Slurm, which clears up after it has called a job ended, may take."""


def look(cluster: Cluster) -> Counter[str]:
    """What is there now, on all nodes that are up; each line as often as there is such a thing."""
    found = Counter(_unfinished_checkpoints(cluster))
    for node in cluster.all_nodes():
        if cluster.instance.node_state(node).exists():
            done = cluster.exec(node, ["python3", "-ISB", PROGRAM], "root")
            found.update(f"{node}: {line}" for line in done.stdout.splitlines())
    return found


def _unfinished_checkpoints(cluster: Cluster) -> Iterator[str]:
    """What a writer of checkpoints makes and is to remove; its names begin with a dot."""
    store = cluster.home / CHECKPOINTS.removeprefix("/home/")
    yield from (f"unfinished checkpoint: {path.relative_to(store)}" for path in store.rglob(".*"))


def wait_idle(cluster: Cluster) -> None:
    """Wait until no job is left and the nodes that are up are free. Raises ClusterError."""

    def idle() -> bool:
        up = {node for node in cluster.compute_nodes() if cluster.instance.node_state(node).exists()}
        free = {node for node, state in cluster.node_states().items() if state == "idle"}
        return up <= free and not cluster.exec("ctl", ["squeue", "--noheader"]).stdout

    wait_for(idle, 60, f"cluster {cluster.name} to be idle")


def end_jobs(cluster: Cluster) -> None:
    """Cancel every job, and wait for their end."""
    cluster.exec("ctl", ["sh", "-c", "squeue --noheader --format=%A | xargs -r scancel"], "root", check=False)
    wait_idle(cluster)


def left(cluster: Cluster, before: Counter[str]) -> list[str]:
    """What is there that was not there before; given time to go away."""
    found: list[str] = []

    def nothing() -> bool:
        found[:] = sorted((look(cluster) - before).elements())
        return not found

    try:
        wait_for(nothing, SETTLING, "nothing to be left")
    except ClusterError:
        return found
    return []


@contextmanager
def none_on(*clusters: Cluster) -> Iterator[None]:
    """Raise ClusterError at the end where anything is left on the clusters, which are idle before and after."""
    for cluster in clusters:
        wait_idle(cluster)
    before = [look(cluster) for cluster in clusters]
    yield
    for cluster in clusters:
        end_jobs(cluster)
    for cluster, seen in zip(clusters, before, strict=True):
        if found := left(cluster, seen):
            logs = (f"{node}:\n{tail(cluster.logs(node), 40)}" for node in cluster.compute_nodes())
            raise ClusterError("\n".join(["\n  ".join(["left behind:", *found]), *logs]))
