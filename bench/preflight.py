"""Measures how long a container is looked at before a dump, to find what can't be restored, for 1 and 100 processes.

The container is a user's, and its processes are Python's, forked from the first one, as workers are.
"""

from __future__ import annotations

import json

from bench.report import Measure, Progress, Result, versions
from tests.harness.cluster import Cluster
from tests.harness.cluster.settings import REPOSITORY
from tests.node.support import Site

RUNS = 50
GOALS = {1: 0.005, 100: 0.020}
PROGRAM = f"/src/{(REPOSITORY / 'bench/programs/preflight.py').relative_to(REPOSITORY)}"
FORK = """
import os, signal, sys
for _ in range({}):
    if os.fork() == 0:
        signal.pause()
print("ready", flush=True)
signal.pause()
"""


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes half a minute. Raise ClusterError if it can't be."""
    with Cluster("bench-preflight", nodes=1) as cluster:
        site = Site(cluster)
        site.prepare("alice")
        result = Result(versions(cluster))
        for processes, goal in GOALS.items():
            progress(f"{processes} processes, {RUNS} times")
            result.measures[f"look_{processes}"] = Measure.of(_looks(site, processes), goal=goal)
    return result


def _looks(site: Site, processes: int) -> list[float]:
    spec = site.spec("alice")
    spec["process"]["args"] = ["python3", "-I", "-c", FORK.format(processes - 1)]
    life = site.container("alice", spec)
    try:
        with site.lending("alice"):
            life.run()
            assert life.process and life.process.stdout and life.process.stdout.readline() == "ready\n"
            words = ["python3", "-IS", PROGRAM, f"/home/alice/run/{life.name}", str(RUNS)]
            found: list[float] = json.loads(site.exec(words, "alice").stdout)
            return found
    finally:
        life.stop()
