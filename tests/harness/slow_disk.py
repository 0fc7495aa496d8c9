"""A file system that is as slow as a shared one: bindfs on each node, which counts bytes (FUSE)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.harness.cluster import Cluster


@contextmanager
def slow_disk(cluster: Cluster, path: str, rate: str) -> Iterator[None]:
    """In the block, no node reads or writes more than `rate` a second in the directory `path`, such as "100M"."""
    said = cluster.exec("n1", ["bindfs", "--fuse-version"]).stdout.rpartition(" ")[2]
    more = "kernel_cache" if said.startswith("3") else "kernel_cache,big_writes"  # which FUSE 3 always does
    options = f"--write-rate={rate}", f"--read-rate={rate}", "--multithreaded", "-o", more
    with ExitStack() as mounted:  # takes away the others if one node has lost its power
        for node in cluster.compute_nodes():
            cluster.exec(node, ["bindfs", *options, path, path], "root")
            undo = ["sh", "-c", f"umount --lazy {path}; rm -r /run/mount"]  # libfuse makes that
            mounted.callback(cluster.exec, node, undo, "root")
        yield
