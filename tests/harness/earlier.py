"""Leaves what a job leaves that was preempted on an earlier platform: `python3 -m tests.harness.earlier DIRECTORY`.

DIRECTORY gets the user's home with the bundle and the checkpoint, and what the nodes share. SUITE names the platform.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.process import run

WORK = jobs.Work(ticks=60)


def leave(directory: Path) -> None:
    """Raise ClusterError if there is no checkpoint."""
    with Cluster(f"{NAME}-earlier", nodes=1) as cluster:
        job = jobs.batch(cluster, jobs.prepare(cluster), "earlier", WORK, *jobs.OPTIONS)
        job.wait_running()
        job.wait_ticks(3)
        job.displace()
        wait_for(lambda: "PENDING" in job.state() and "COMPLETING" not in job.state(), 60, "the end of its first run")
        for path in (cluster.home / "alice", cluster.shared):
            run(["cp", "--archive", "--reflink=auto", str(path), str(directory)])


if __name__ == "__main__":
    leave(Path(sys.argv[1]))
