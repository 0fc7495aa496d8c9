"""Moves a program between two nodes by CRIU alone, as root would by hand: by its page server, from memory to memory.

Nothing schedules it, and nothing looks after it if that fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.cluster import Cluster

PLACE = "/dev/shm/by-hand"
PORT = 27000
PID = 20000
"""Of the program: no process of the other node has it."""
START = f"""
mkdir {PLACE}
echo {PID - 2} >/proc/sys/kernel/ns_last_pid
setsid --fork sh -c 'echo $$ >{PLACE}/pid; exec "$@"' sh "$@" </dev/null >/dev/null 2>&1
"""
RECEIVE = f"""
mkdir -p {PLACE}
criu page-server --images-dir {PLACE} --address 0.0.0.0 --port {PORT} --daemon </dev/null >{PLACE}/log 2>&1
"""
DUMP = f"""
address=$(getent hosts "$1" | cut -d' ' -f1)
criu dump --tree "$(cat {PLACE}/pid)" --images-dir {PLACE} --page-server --address "$address" --port {PORT}
tar -C {PLACE} -cf /shared/by-hand.tar .
"""
RESTORE = f"tar -C {PLACE} -xf /shared/by-hand.tar && criu restore --images-dir {PLACE} --restore-detached"


@contextmanager
def running(cluster: Cluster, *argv: str) -> Iterator[None]:
    """Have a program run on the first node; it is ended with the block, on whichever node."""
    _root(cluster, "n1", START, *argv)
    try:
        yield
    finally:
        for node in cluster.compute_nodes():
            _root(cluster, node, f"[ ! -e {PLACE}/pid ] || kill -KILL $(cat {PLACE}/pid) || true; rm -rf {PLACE}")


def move(cluster: Cluster) -> None:
    """Have it go on on the second node."""
    _root(cluster, "n2", RECEIVE)
    _root(cluster, "n1", DUMP, "n2")
    _root(cluster, "n2", RESTORE)


def _root(cluster: Cluster, node: str, script: str, *words: str) -> None:
    cluster.exec(node, ["sh", "-ec", script, "sh", *words], "root")
