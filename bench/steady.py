"""Measures what it costs a program that it may be checkpointed, while it is not.

How fast it computes in a task without a container, beside a task that may not be checkpointed: both do the same work in
turns on the same node, and time themselves. HPL and LAMMPS by what they say of themselves: in a container beside plain
crun, and without one beside a Slurm that has nothing of ours. And what stays beside a program: the memory of all
processes of ours, the user's and root's, with crun's, and the system calls that they make in a minute. The most that
they have, without CRIU's, while a program with 4 GiB is dumped, compressed, to a file system that moves 100 MB/s.
"""

from __future__ import annotations

import re
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from bench.applications import FACTORIZATIONS, PACKAGES, root
from bench.processes import processes
from bench.report import Measure, Progress, Result, versions
from bench.startup import compare, without
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.jobs import Work
from tests.harness.slow_disk import slow_disk
from tests.programs.site import PLACE, Site

SPEED = 0.99
GOAL = 1 / SPEED  # of the time
LOOP = """
import time
begin = time.perf_counter()
total = 0
for number in range(12_000_000):
    total += number * number
print(time.perf_counter() - begin)
"""
LARGEST = 12.0  # MiB
WATCHED_SECONDS = 60
LARGE, PEAK = 4096, 256.0  # MiB of a program, and of ours while it is dumped
SETTLED_SECONDS = 130  # the cost of a checkpoint is computed after one minute, two, four and so on


@dataclass(frozen=True)
class Figure:
    """What a program says of its speed, some seconds long."""

    script: str
    words: tuple[str, ...]
    file: str
    pattern: str
    """Of the figure in a line of that file; the median counts if it is there more than once."""
    unit: str


RUNS, SECONDS = 5, 300
RATE = "100M"
FIGURES = {
    "hpl": Figure("hpcc", ("1", "3000", *3 * FACTORIZATIONS), "hpccoutf.txt", r"^WR\S+ .* (\S+)$", "GFLOPS"),
    "lammps": Figure("lammps", ("20", "500", "500"), "log", r"([\d.]+) timesteps/s", "steps/s"),
}


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes a quarter of an hour. Raise ClusterError if a program fails."""
    with Cluster("bench-steady", nodes=1, packages=PACKAGES) as cluster:
        bundle = jobs.prepare(cluster)
        site = Site(cluster, root())
        site.go()
        result = Result(versions(cluster))

        def loop(*options: str) -> float:
            return seconds(cluster, ["srun", *options, "python3", "-IS", "-c", LOOP])

        compare(result, progress, "loop", {"shim": lambda: loop(*jobs.OPTIONS[:2]), "plain": loop}, GOAL)
        for name in FIGURES:
            _compare_figures(site, result, progress, name)
        for name, options in ("contained", [f"--container={bundle}"]), ("bare", []):
            progress(f"what stays, {name}")
            _watch(cluster, result, name, options)
        progress(f"what it takes to dump {LARGE} MiB")
        with slow_disk(cluster, jobs.CHECKPOINTS, RATE):
            result.measures["memory_dumping"] = Measure.of([_peak(cluster)], "MiB", PEAK)
        return result


def _compare_figures(site: Site, result: Result, progress: Progress, name: str) -> None:
    for way, other, options in ("contained", "crun", [f"--container={site.bundles[False]}"]), ("bare", "plain", []):
        kinds = {
            "shim": partial(_figure, site, name, [*options, *jobs.OPTIONS[:2]]),
            other: partial(_plain_figure, site, name, options),
        }
        unit = FIGURES[name].unit
        compare(result, progress, f"{name}_{way}", kinds, SPEED, RUNS, warm_up=0, unit=unit, better="higher")


def _figure(site: Site, name: str, options: Sequence[str]) -> float:
    """Return what a program says of itself in a step with these options of srun."""
    figure, directory = FIGURES[name], site.place / "steady"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    shutil.chown(directory, 1000, 1000)
    script = f"cd {PLACE}/steady && exec {PLACE}/scripts/{figure.script}.sh {' '.join(figure.words)}"
    site.cluster.exec("ctl", ["srun", *options, "sh", "-c", script], timeout=SECONDS)
    found = re.findall(figure.pattern, (directory / figure.file).read_text(), re.MULTILINE)
    if not found:
        raise ClusterError(f"{name} has not said how fast it is")
    return statistics.median(map(float, found))


def _plain_figure(site: Site, name: str, options: Sequence[str]) -> float:
    with without(site.cluster):
        return _figure(site, name, options)


def _watch(cluster: Cluster, result: Result, name: str, options: Sequence[str]) -> None:
    """Measure what is beside a program that sleeps."""
    job = jobs.submit(cluster, name, "exec sleep 1000", Work(), *options, *jobs.OPTIONS)
    job.wait_running()
    time.sleep(SETTLED_SECONDS)
    ours = [process for process in processes(cluster, "n1") if process.is_ours]
    attached = (f"--attach={process.pid}" for process in ours)
    argv = ["timeout", str(WATCHED_SECONDS), "strace", "-f", *attached, "--quiet=attach"]
    said = cluster.exec("n1", argv, "root", check=False, timeout=2 * WATCHED_SECONDS).stderr
    calls = [line for line in said.splitlines() if "<unfinished" not in line and "detached" not in line]
    result.measures[f"memory_{name}"] = Measure.of([sum(process.mib for process in ours)], "MiB", LARGEST)
    result.measures[f"calls_a_minute_{name}"] = Measure.of([len(calls)], "calls", 0)
    cluster.exec("ctl", ["scancel", job.number])
    wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "the job's end")


def _peak(cluster: Cluster) -> float:
    """Return the most MiB that ours have together while a large program is dumped."""
    shutil.copy(REPOSITORY / "bench/programs/memory.py", cluster.shared)
    ready = cluster.shared / "ready"
    command = f"exec python3 -IS /shared/memory.py numpy {LARGE} /shared/{ready.name}"
    job = jobs.submit(cluster, "large", command, Work(), *jobs.OPTIONS)
    wait_for(ready.exists, SECONDS, "its memory")
    most = 0.0
    with ThreadPoolExecutor() as threads:
        argv = ["oci-criu-shim", "job", "checkpoint", job.number]
        done = threads.submit(cluster.exec, "ctl", argv, timeout=SECONDS)
        while not done.done():
            most = max(most, sum(process.mib for process in processes(cluster, "n1") if process.is_ours))
        done.result()
    cluster.exec("ctl", ["scancel", job.number])
    return most


def seconds(cluster: Cluster, argv: Sequence[str]) -> float:
    """Return what a program says that it took."""
    said = cluster.exec("ctl", argv).stdout
    try:
        return float(said)
    except ValueError:
        raise ClusterError(f"the loop was not timed: {said!r}") from None
