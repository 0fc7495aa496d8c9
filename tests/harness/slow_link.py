"""Links of nodes that are as slow as others' networks, by tc-tbf(8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from tests.harness.cluster import Cluster

TBF = ("tc", "qdisc", "add", "dev", "eth0", "root", "tbf")
UNDO = ("tc", "qdisc", "del", "dev", "eth0", "root")


@contextmanager
def slow_links(cluster: Cluster, nodes: Iterable[str], *limit: str) -> Iterator[None]:
    """In the block, no more leaves the nodes than `limit` says, in words of tc-tbf(8)."""
    with ExitStack() as limited:
        for node in nodes:
            cluster.exec(node, [*TBF, *limit], "root")
            limited.callback(cluster.exec, node, UNDO, "root")
        yield
