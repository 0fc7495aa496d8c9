"""Measures how fast a program computes in a task without a container that may be checkpointed, beside one that isn't.

Both do the same work in turns on the same node, and time themselves.
"""

from __future__ import annotations

from bench.report import Measure, Progress, Result, versions
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError

RUNS = 12
WARM_UP = 1
GOAL = 0.99
LOOP = """
import time
begin = time.perf_counter()
total = 0
for number in range(12_000_000):
    total += number * number
print(time.perf_counter() - begin)
"""


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes half a minute. Raise ClusterError if a program fails."""
    times: dict[str, list[float]] = {"plain": [], "shim": []}
    with Cluster("bench-steady", nodes=1) as cluster:
        jobs.prepare(cluster)
        result = Result(versions(cluster))
        for number in range(1 - WARM_UP, RUNS + 1):
            for kind, options in (("plain", ()), ("shim", jobs.OPTIONS[:2])):
                done = cluster.exec("ctl", ["srun", *options, "python3", "-IS", "-c", LOOP])
                if number > 0:
                    times[kind].append(_seconds(done.stdout))
            progress(f"loop: {max(number, 0)} of {RUNS}")
    medians = {kind: result.median(f"loop_{kind}", seconds) for kind, seconds in times.items()}
    result.measures["loop_speed"] = Measure(medians["plain"] / medians["shim"], "ratio", RUNS, GOAL, better="higher")
    return result


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ClusterError(f"the loop was not timed: {text!r}") from None
