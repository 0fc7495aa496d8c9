"""Measures the time from Slurm's SIGTERM to a committed checkpoint, beside a plain `criu dump`, and the way back.

The way begins with slurmctld's log line that it signals the job, which is a little before the node hears of it, and
ends when the rename that commits is seen, which is looked for every 2 ms. Log, file system and commands are on one
machine, so all of it is by one clock. `criu dump` is what root would run: the same program with the same memory, not
in a container, onto the same file system, nothing flushed to the disk; its time is the command's.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field

from bench.report import Measure, Progress, Result, differences, versions
from bench.startup import BUNDLE, timed
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.process import run
from tests.harness.jobs import Job, Work

RUNS = 3
SIZES = (64, 256, 1024)
GOAL = 0.5
FROZEN_MARK = "checkpoint/files.img"  # CRIU makes it when all processes are frozen
PLAIN_IMAGES = "/home/alice/plain"
# Its own session and no descriptor of anybody's, or CRIU would dump more than the program.
START = "setsid python3 /shared/{command} </dev/null >/dev/null 2>&1 & echo $!"


@dataclass
class Times:
    """Seconds, one of each a run."""

    commit: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    frozen: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes some minutes. Raise ClusterError if a job does not do as it should."""
    times = {mib: Times() for mib in SIZES}
    with Cluster("bench-preempt", nodes=2, grace_time=60, requeue_delay=120, slurm_conf=jobs.SIGNALS_LOGGED) as cluster:
        jobs.prepare(cluster)
        result = Result(versions(cluster))
        for number in range(1, RUNS + 1):
            for mib in SIZES:
                progress(f"{mib} MiB, {number} of {RUNS}")
                _plain(cluster, mib, times[mib])
                _preempt(cluster, mib, times[mib])
    for mib, found in times.items():
        _add(result, mib, found)
    return result


def _add(result: Result, mib: int, times: Times) -> None:
    result.measures |= {
        f"commit_{mib}_mib": Measure.of(times.commit),
        f"plain_dump_{mib}_mib": Measure.of(times.plain),
        f"commit_over_plain_{mib}_mib": Measure.of(differences(times.commit, times.plain), goal=GOAL),
        f"frozen_{mib}_mib": Measure.of(times.frozen),
        f"running_again_{mib}_mib": Measure.of(times.again),
    }


def _work(mib: int) -> Work:
    return Work(ticks=1000, tick=0.2, mib=mib)


def _settle() -> None:
    """Have the disk written to, so that nothing of what came before disturbs."""
    run(["sync"])


def _plain(cluster: Cluster, mib: int, times: Times) -> None:
    ledger = cluster.shared / "plain.ledger"
    ledger.unlink(missing_ok=True)
    command = _work(mib).command(f"/shared/{ledger.name}").removeprefix("python3 /shared/")
    pid = cluster.exec("n1", ["sh", "-c", START.format(command=command)], "root").stdout.strip()
    wait_for(lambda: ledger.exists() and ledger.read_text().count("\n") >= 3, 60, "the program to dump")
    cluster.exec("n1", ["mkdir", PLAIN_IMAGES], "root")
    _settle()
    argv = ("criu", "dump", "--tree", pid, "--images-dir", PLAIN_IMAGES, "--manage-cgroups=ignore")
    times.plain.append(timed(cluster, "n1", argv, "root"))
    cluster.exec("n1", ["rm", "-r", PLAIN_IMAGES], "root")


def _preempt(cluster: Cluster, mib: int, times: Times) -> None:
    job = jobs.batch(cluster, BUNDLE, "bench", _work(mib), *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    _settle()
    committing = job.committing()
    high = job.displace()
    requeued = appears(job, "requeueing")
    restored = appears(job, "restored")
    _read_times(job, times, committing.time())
    times.again.append(restored - requeued)
    cluster.exec("ctl", ["scancel", job.number, high])
    wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "the end of both jobs")
    shutil.rmtree(job.checkpoints().parent)


def appears(job: Job, event: str, timeout: float = 120) -> float:
    """Return when the runtime first says `event`. Raise ClusterError if it does not."""
    deadline = time.monotonic() + timeout
    while not any(line.startswith(event) for line in job.events()):
        if time.monotonic() > deadline:
            raise ClusterError(f"job {job.number} was not seen {event}\n{job.quoted()}")
        time.sleep(0.01)
    return time.monotonic()


def _read_times(job: Job, times: Times, committed: float) -> None:
    frozen = float(run(["stat", "--format=%.9W", str(job.checkpoints() / "1" / FROZEN_MARK)]).stdout)
    times.commit.append(committed - job.signalled())
    times.frozen.append(committed - frozen)
