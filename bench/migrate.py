"""Measures how a job gets to another node: by its requeue at a preemption, and by `job migrate`, memory to memory.

Its programs are two of ours (bench/programs/memory.py), one with the kinds of memory that a NumPy program has, and one
with random bytes, and HPL, GROMACS, LAMMPS and AutoDock Vina, HPL in three sizes. Each moves in turns by a preemption
with `compress = "off"` and with `"auto"`, and by `job migrate`, also with `--precopy=off` (`frozen`). The file system
of the checkpoints moves 100 MB/s (tests/harness/slow_disk.py), the nodes' links 1 Gbit/s, by tc-tbf(8); `wide` is a
migration between nodes whose links are as fast as the machine. `criu` is what CRIU does alone, by hand
(bench/by_hand.py), on the slow links, with the programs of ours.

Programs of ours note the time very often. The total is from slurmctld's SIGTERM, or from the start of the command,
until the program computes again on the other node; `down` is the longest gap in its notes. Of others, both are until
they are restored, as the job's history has it. The total has three parts: `before`
the program is frozen, `frozen` as the job's history has it, which is until the checkpoint is complete, and `after`
that. `restore` is a part of the last, `transfer` is what `job migrate` says: from asking the job until the other node
has all of it. What was sent is relative to the program's memory.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise, product
from pathlib import Path

from bench import by_hand
from bench.applications import APPLICATIONS, PACKAGES, hpl, root
from bench.disk import restored_task, start_application
from bench.preempt import appears
from bench.report import Measure, Progress, Result, ratios, versions
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.process import run
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.jobs import Job, Work
from tests.harness.slow_disk import slow_disk
from tests.harness.slow_link import slow_links
from tests.programs.site import Site

RUNS, WIDE_RUNS = 3, 1
SIZES = (64, 256, 1024)  # MiB
OURS = ("numpy", "random")
GOALS = {"numpy": 0.4, **dict.fromkeys(("random", *APPLICATIONS), 0.5)}
"""By program, of the total of a migration over that of the requeue without compression."""
HPL = {256: hpl(5800, 2), 512: hpl(8200), 1024: hpl(11600)}
"""By MiB; a smaller one has no memory of note between its factorizations, of a second each."""
OTHERS = {("hpl", mib): application for mib, application in HPL.items()} | {
    (name, application.least): application for name, application in APPLICATIONS.items() if name != "hpl"
}
PROGRAMS = (*product(OURS, SIZES), *OTHERS)
WAYS = ("off", "auto", "migrate", "frozen", "wide", "criu")
PRECOPY_FROM = 128  # MiB: those of less are frozen in any case
DISK = "100M"
LINK = ("rate", "1gbit", "burst", "1m", "latency", "50ms")
TICK = 0.02
SHIM = "oci-criu-shim"
Samples = dict[tuple[str, str, int, str], list[float]]  # by what, kind, MiB, way


def measure(progress: Progress, names: Sequence[str] = (), runs: int | None = None) -> Result:
    """Run this benchmark, which takes an hour: of some programs, by default all, each so many times.

    Raise ClusterError if a job does not do as it should.
    """
    chosen = [(name, mib) for name, mib in PROGRAMS if name in (names or GOALS)]
    packages = PACKAGES if set(chosen) & set(OTHERS) else ()
    samples: Samples = {}
    conf = jobs.SIGNALS_LOGGED
    with Cluster(
        "bench-migrate", nodes=2, grace_time=120, requeue_delay=120, slurm_conf=conf, packages=packages
    ) as cluster:
        site = Site(cluster, root(packages))
        site.go()
        shutil.copy(REPOSITORY / "bench/programs/memory.py", cluster.shared)
        result = Result(versions(cluster))
        with slow_disk(cluster, jobs.CHECKPOINTS, DISK):
            for number, (name, mib), way in product(range(1, (runs or RUNS) + 1), chosen, WAYS):
                if not _is_of_use(name, mib, way, number):
                    continue
                turn = f"{name}, {mib} MiB, {way}, {number} of {runs or RUNS}"
                progress(turn)
                found = _move(site, name, mib, way)
                progress(f"{turn}: " + ", ".join(f"{what} {sample:.2f}" for what, sample in found.items()))
                for what, sample in found.items():
                    samples.setdefault((what, name, mib, way), []).append(sample)
    result.measures = measures(samples)
    return result


def _is_of_use(name: str, mib: int, way: str, number: int) -> bool:
    """Return whether there is to be that turn."""
    return {"wide": number <= WIDE_RUNS, "criu": name in OURS, "frozen": mib >= PRECOPY_FROM}.get(way, True)


def measures(samples: Samples) -> dict[str, Measure]:
    """Return what was found, and the ratios to the requeue without compression, run by run."""
    found = {}
    for (what, kind, mib, way), some in samples.items():
        name, group = f"{what}_{kind}_{mib}_{way}", f"{kind}, {mib} MiB"
        found[name] = Measure.of(some, "ratio" if what == "sent" else "s", group=group)
        if way != "off" and what in ("total", "down"):
            goal = GOALS[kind] if what == "total" and way in ("migrate", "frozen") else None
            compared = ratios(some, samples[what, kind, mib, "off"][: len(some)])
            found[f"{name}_ratio"] = Measure.of(compared, "ratio", goal, group=group)
    return found


def _move(site: Site, kind: str, mib: int, way: str) -> dict[str, float]:
    """Have a program go on on the other node once; return the samples of that."""
    cluster = site.cluster
    with ExitStack() as stack:
        stack.enter_context(jobs.settings(cluster, f'compress = "{"off" if way == "off" else "auto"}"\n'))
        if way != "wide":
            stack.enter_context(slow_links(cluster, cluster.compute_nodes(), *LINK))
        ticks = cluster.shared / "ticks"
        ticks.unlink(missing_ok=True)
        if way == "criu":
            return _by_hand(cluster, kind, mib, ticks)
        job = _start(cluster, kind, mib, ticks) if kind in OURS else start_application(site, OTHERS[kind, mib])
        run(["sync"])
        found = _preempt(job, ticks) if way in ("off", "auto") else _migrate(job, ticks, way != "frozen")
        _clear(job)
    return found


def _start(cluster: Cluster, kind: str, mib: int, ticks: Path) -> Job:
    """Have a program run that notes the time in `ticks`; return its job when it has its memory."""
    job = jobs.submit(cluster, "move", f"exec {' '.join(_command(kind, mib, ticks))}", Work(), *jobs.OPTIONS)
    job.wait_running()
    _wait_until_it_computes(ticks)
    return job


def _command(kind: str, mib: int, ticks: Path) -> list[str]:
    return ["python3", "-IS", "/shared/memory.py", kind, str(mib), f"/shared/{ticks.name}", str(TICK)]


def _wait_until_it_computes(ticks: Path) -> None:
    wait_for(lambda: ticks.exists() and len(_times(ticks)) > 1 / TICK, 120, "the program to compute")


def _by_hand(cluster: Cluster, kind: str, mib: int, ticks: Path) -> dict[str, float]:
    with by_hand.running(cluster, *_command(kind, mib, ticks)):
        _wait_until_it_computes(ticks)
        begun = time.time()
        by_hand.move(cluster)
        stopped, again = _gap(ticks)
    return {"total": again - begun, "down": again - stopped}


def _preempt(job: Job, ticks: Path) -> dict[str, float]:
    job.displace(600)
    appears(job, "restored")
    return _parts(job, ticks, job.signalled())


def _migrate(job: Job, ticks: Path, precopy: bool) -> dict[str, float]:
    begun, mode = time.time(), f"--precopy={'auto' if precopy else 'off'}"
    said = json.loads(job.cluster.exec("ctl", [SHIM, "job", "migrate", "--json", mode, job.number]).stdout)
    appears(job, "restored")
    more = {"transfer": said["transfer"], "sent": said["sent"] / said["bytes"]}
    return _parts(job, ticks, begun) | more


def _parts(job: Job, ticks: Path, begun: float) -> dict[str, float]:
    """Return the seconds of each part of a way that has begun then, and is over."""
    task = restored_task(job)
    at, frozen = (task["checkpoints"][0][name] for name in ("at", "frozen"))
    restored = task["runs"][1]["restored"]
    stopped, again = _gap(ticks) if ticks.exists() else (at, restored["time"])
    return {
        **{"total": again - begun, "down": again - stopped},
        **{"before": at - begun, "frozen": frozen, "after": again - at - frozen},
        "restore": restored["seconds"],
    }


def _gap(ticks: Path) -> tuple[float, float]:
    """Return when a program stopped that has been restored, and when it has computed again."""
    restored = time.time()
    wait_for(lambda: _times(ticks)[-1] > restored, 60, "the program to compute again")
    return max(pairwise(_times(ticks)), key=lambda pair: pair[1] - pair[0])


def _times(ticks: Path) -> list[float]:
    """Return when the program has computed, in seconds since the epoch."""
    return [float(line) for line in ticks.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _clear(job: Job) -> None:
    """End all jobs, and remove what they have left: the next program must find the nodes idle."""
    cluster = job.cluster
    for node in cluster.compute_nodes():
        wait_for(partial(_memory_is_free, cluster, node), 60, "a checkpoint in memory to be kept")
    cluster.exec("ctl", ["scancel", "--user=alice"])
    wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "the end of all jobs")
    shutil.rmtree(job.checkpoints().parent)


def _memory_is_free(cluster: Cluster, node: str) -> bool:
    return not cluster.exec(node, ["ls", "-A", "/dev/shm"]).stdout
