"""A file system that is as slow as a shared one: bindfs on each node, which counts bytes (FUSE)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.cluster import Cluster


@contextmanager
def slow_disk(cluster: Cluster, path: str, rate: str) -> Iterator[None]:
    """In the block, no node reads or writes more than `rate` a second in the directory `path`, such as "100M"."""
    said = cluster.exec("n1", ["bindfs", "--fuse-version"]).stdout.rpartition(" ")[2]
    more = "kernel_cache" if said.startswith("3") else "kernel_cache,big_writes"  # which FUSE 3 always does
    options = f"--write-rate={rate}", f"--read-rate={rate}", "--multithreaded", "-o", more
    nodes = []
    try:
        for node in cluster.compute_nodes():
            cluster.exec(node, ["bindfs", *options, path, path], "root")
            nodes.append(node)
        yield
    finally:
        for node in nodes:
            cluster.exec(node, ["sh", "-c", f"umount --lazy {path}; rm -r /run/mount"], "root")  # libfuse makes that
