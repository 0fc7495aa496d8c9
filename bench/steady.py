"""Measures what it costs a program that it may be checkpointed, while it is not.

How fast it computes in a task without a container, beside a task that may not be checkpointed: both do the same work in
turns on the same node, and time themselves. And what stays beside it: the memory of all processes of ours, the user's
and root's, with crun's, and the system calls that they make in a minute.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.report import Measure, Progress, Result, versions
from bench.startup import compare
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.jobs import Work

GOAL = 1 / 0.99  # of the time: 0.99 of the speed
LOOP = """
import time
begin = time.perf_counter()
total = 0
for number in range(12_000_000):
    total += number * number
print(time.perf_counter() - begin)
"""


OURS = "oci-criu-shim"  # is in the command lines of all of them
LARGEST = 12.0  # MiB
WATCHED_SECONDS = 60
SETTLED_SECONDS = 130  # the cost of a checkpoint is computed after one minute, two, four and so on
LIST = f"""
for process in /proc/[0-9]*; do
    if tr '\\0' ' ' <$process/cmdline | grep -q {OURS}; then
        echo ${{process#/proc/}} $(awk '/^Pss:/ {{ print $2 }}' $process/smaps_rollup)
    fi
done 2>/dev/null
"""


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes five minutes. Raise ClusterError if a program fails."""
    with Cluster("bench-steady", nodes=1) as cluster:
        bundle = jobs.prepare(cluster)
        result = Result(versions(cluster))

        def loop(*options: str) -> float:
            return seconds(cluster, ["srun", *options, "python3", "-IS", "-c", LOOP])

        compare(result, progress, "loop", {"shim": lambda: loop(*jobs.OPTIONS[:2]), "plain": loop}, GOAL)
        for name, options in ("contained", [f"--container={bundle}"]), ("bare", []):
            progress(f"what stays, {name}")
            _watch(cluster, result, name, options)
        return result


def _watch(cluster: Cluster, result: Result, name: str, options: Sequence[str]) -> None:
    """Measure what is beside a program that sleeps."""
    job = jobs.submit(cluster, name, "exec sleep 1000", Work(), *options, *jobs.OPTIONS)
    job.wait_running()
    time.sleep(SETTLED_SECONDS)
    lines = [line.split() for line in cluster.exec("n1", ["sh", "-c", LIST], "root").stdout.splitlines()]
    pids, sizes = [line[0] for line in lines], [int(line[1]) for line in lines]
    argv = ["timeout", str(WATCHED_SECONDS), "strace", "-f", *(f"--attach={pid}" for pid in pids), "--quiet=attach"]
    said = cluster.exec("n1", argv, "root", check=False, timeout=2 * WATCHED_SECONDS).stderr
    calls = [line for line in said.splitlines() if "<unfinished" not in line and "detached" not in line]
    result.measures[f"memory_{name}"] = Measure.of([sum(sizes) / 1024], "MiB", LARGEST)
    result.measures[f"calls_a_minute_{name}"] = Measure.of([len(calls)], "calls", 0)
    cluster.exec("ctl", ["scancel", job.number])
    wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "the job's end")


def seconds(cluster: Cluster, argv: Sequence[str]) -> float:
    """Return what a program says that it took."""
    said = cluster.exec("ctl", argv).stdout
    try:
        return float(said)
    except ValueError:
        raise ClusterError(f"the loop was not timed: {said!r}") from None
