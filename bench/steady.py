"""Measures how fast a program computes in a task without a container that may be checkpointed, beside one that isn't.

Both do the same work in turns on the same node, and time themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import Progress, Result, versions
from bench.startup import compare
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError

GOAL = 1 / 0.99  # of the time: 0.99 of the speed
LOOP = """
import time
begin = time.perf_counter()
total = 0
for number in range(12_000_000):
    total += number * number
print(time.perf_counter() - begin)
"""


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes a minute. Raise ClusterError if a program fails."""
    with Cluster("bench-steady", nodes=1) as cluster:
        jobs.prepare(cluster)
        result = Result(versions(cluster))

        def loop(*options: str) -> float:
            return seconds(cluster, ["srun", *options, "python3", "-IS", "-c", LOOP])

        compare(result, progress, "loop", lambda: loop(*jobs.OPTIONS[:2]), loop, GOAL, other="plain")
        return result


def seconds(cluster: Cluster, argv: Sequence[str]) -> float:
    """Return what a program says that it took."""
    said = cluster.exec("ctl", argv).stdout
    try:
        return float(said)
    except ValueError:
        raise ClusterError(f"the loop was not timed: {said!r}") from None
