"""Measures a preemption with its checkpoint on a slow disk, as a shared one is, and on this machine's own.

Each program is preempted in turns with `compress = "off"`, by which CRIU writes all memory raw, and `"auto"`. They are
HPL, GROMACS, LAMMPS and AutoDock Vina, and two of ours (bench/programs/memory.py): one with the kinds of memory that a
NumPy program has, and one with random bytes. bindfs makes the disk slow (tests/harness/slow_disk.py).

The commit is from slurmctld's SIGTERM on, by bench/preempt.py's clock. For how long the program was frozen, and the
restore, on another node, which has read nothing of it before, are as the job's history has them. The memory is what the
program's processes have just before (proportional set size), the image the whole checkpoint. What zstd:1 leaves of the
raw pages is the part of the time that a slow disk needs at best, so the goals are made of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import zstandard

from bench.applications import APPLICATIONS, PACKAGES, Application, root
from bench.preempt import appears
from bench.processes import memory_of_job
from bench.report import Measure, Progress, Result, ratios, versions
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.process import run
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.jobs import Job, Work
from tests.harness.slow_disk import slow_disk
from tests.programs.site import BARE, Site

MIB = 256
RUNS = {"numpy": 3, "random": 2, **dict.fromkeys(APPLICATIONS, 2)}
SETTINGS = ("off", "auto")
DISKS = ("slow", "own")
RATE = "100M"
UNITS = {"commit": "s", "frozen": "s", "restore": "s", "image": "MiB"}
GOALS = {"commit_numpy_slow": 0.55, "restore_numpy_slow": 0.6}
"""Of the times with compression over those without; others' are computed."""
ABOVE = {"commit": 0.06, "restore": 0.1}
"""How much above what zstd:1 leaves the ratios may be on the slow disk."""
OWN_GOALS = {"commit": 1.05}
FRAME = 1 << 20  # dump/page_server.py's
SHIM = "oci-criu-shim"
SECONDS = 300
Samples = dict[tuple[str, str, str, str], list[float]]  # by what, program, disk, setting


def measure(progress: Progress, programs: Sequence[str] = (), runs: int | None = None) -> Result:
    """Run this benchmark, which takes half an hour: of some programs, by default all, each so many times.

    Raise ClusterError if a job does not do as it should.
    """
    chosen = {name: runs or RUNS[name] for name in programs or RUNS}
    packages = PACKAGES if set(chosen) & set(APPLICATIONS) else ()
    samples: Samples = {}
    conf = jobs.SIGNALS_LOGGED
    with Cluster(
        "bench-disk", nodes=2, grace_time=120, requeue_delay=120, slurm_conf=conf, packages=packages
    ) as cluster:
        site = Site(cluster, root(packages))
        site.go()
        shutil.copy(REPOSITORY / "bench/programs/memory.py", cluster.shared)
        result = Result(versions(cluster))
        for disk in DISKS:
            with slow_disk(cluster, jobs.CHECKPOINTS, RATE) if disk == "slow" else nullcontext():
                for name, setting, number in _turns(chosen):
                    progress(f"{name}, {disk} disk, {setting}, {number} of {chosen[name]}")
                    for what, sample in _preempt(site, name, setting).items():
                        samples.setdefault((what, name, disk, setting), []).append(sample)
    for name in chosen:
        result.measures |= measures(name, samples)
    return result


def _turns(chosen: dict[str, int]) -> Iterator[tuple[str, str, int]]:
    for number in range(1, max(chosen.values()) + 1):
        for name, runs in chosen.items():
            if number <= runs:
                yield from ((name, setting, number) for setting in SETTINGS)


def measures(name: str, samples: Samples) -> dict[str, Measure]:
    """Return what was found of one program."""
    group = APPLICATIONS[name].program.title if name in APPLICATIONS else name

    def all_of(what: str, unit: str) -> Measure:
        found = [sample for key, some in samples.items() if key[:2] == (what, name) for sample in some]
        return Measure.of(found, unit, group=group)

    left = all_of("left", "ratio")
    found = {f"memory_{name}": all_of("memory", "MiB"), f"left_{name}": left}
    for disk in DISKS:
        for what, unit in UNITS.items():
            off, auto = (samples[what, name, disk, setting] for setting in SETTINGS)
            goal = _goal(what, name, disk, left.value)
            found |= {
                f"{what}_{name}_{disk}_off": Measure.of(off, unit, group=group),
                f"{what}_{name}_{disk}_auto": Measure.of(auto, unit, group=group),
                f"{what}_{name}_{disk}_ratio": Measure.of(ratios(auto, off), "ratio", goal, group=group),
            }
    return found


def _goal(what: str, name: str, disk: str, left: float) -> float | None:
    if disk == "own":
        return OWN_GOALS.get(what)
    return GOALS.get(f"{what}_{name}_{disk}", left + ABOVE[what] if what in ABOVE else None)


def _preempt(site: Site, name: str, setting: str) -> dict[str, float]:
    """Preempt a program once; return the samples of that."""
    cluster = site.cluster
    with jobs.settings(cluster, f'compress = "{setting}"\n'):
        job = _start(site, name)
        memory = memory_of_job(cluster, job.nodes[-1])
        run(["sync"])
        committing = job.committing()
        high = job.displace(600)
        appears(job, "restored")
        found = {"memory": memory, "commit": committing.time() - job.signalled(), **_told(job)}
        if setting == "off":
            found["left"] = left_by_zstd(job.checkpoints() / "1/checkpoint")
        cluster.exec("ctl", ["scancel", job.number, high])
        wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "the end of both jobs")
    shutil.rmtree(job.checkpoints().parent)
    return found


def _start(site: Site, name: str) -> Job:
    """Have a program run; return its job when it has its memory."""
    if name in APPLICATIONS:
        return start_application(site, APPLICATIONS[name])
    ready = site.cluster.shared / "ready"
    ready.unlink(missing_ok=True)
    command = f"exec python3 -IS /shared/memory.py {name} {MIB} /shared/{ready.name}"
    job = jobs.submit(site.cluster, "disk", command, Work(), *jobs.OPTIONS)
    job.wait_running()
    wait_for(ready.exists, 120, "the program's memory")
    return job


def start_application(site: Site, application: Application) -> Job:
    """Have a real program run; return its job when it has its memory."""
    shutil.rmtree(site.place / "disk", ignore_errors=True)
    attempt = site.submit(application.program, "disk", BARE)
    attempt.wait_work()
    if application.begins:
        name, text = application.begins
        file = attempt.directory / name
        _wait(attempt.job, lambda: file.exists() and text in file.read_text(), f"{text!r} in {file}")
    _wait(attempt.job, _growth_ends(attempt.job, application.least), f"memory of {application.program.title}")
    return attempt.job


def _wait(job: Job, predicate: Callable[[], bool], what: str) -> None:
    def is_so() -> bool:
        if job.state() in jobs.ENDED:
            raise ClusterError(f"job {job.number} ended before {what}\n{job.quoted()}")
        return predicate()

    wait_for(is_so, SECONDS, what)


def _growth_ends(job: Job, least: int) -> Callable[[], bool]:
    """Return a function that tells whether the job's memory, MiB, has grown little since the call before."""
    sizes = [0.0]

    def is_so() -> bool:
        sizes.append(memory_of_job(job.cluster, job.nodes[-1]))
        return sizes[-1] >= least and sizes[-1] < 1.01 * sizes[-2]

    return is_so


def _told(job: Job) -> dict[str, float]:
    """Return what the job's history has of its checkpoint and its restore."""
    task = restored_task(job)
    checkpoint, restored = task["checkpoints"][0], task["runs"][1]["restored"]
    return {"frozen": checkpoint["frozen"], "image": checkpoint["bytes"] / (1 << 20), "restore": restored["seconds"]}


def restored_task(job: Job) -> dict[str, Any]:
    """Return what `job status` has of a job's task, once the restore is noted: the job's output tells of it before."""
    argv = [SHIM, "job", "status", "--json", f"--checkpoint-dir={jobs.CHECKPOINTS}", job.number]
    found: list[dict[str, Any]] = []

    def is_noted() -> bool:
        found[:] = json.loads(job.cluster.exec("ctl", argv).stdout)["tasks"][:1]
        return len(found[0]["runs"]) > 1

    wait_for(is_noted, 30, "the restore in the job's history")
    return found[0]


def left_by_zstd(images: Path) -> float:
    """Return how much zstd:1 leaves of the raw pages in a directory of CRIU's images."""
    packer = zstandard.ZstdCompressor(level=1)
    raw = packed = 0
    for path in images.glob("pages-*.img"):
        with path.open("rb") as stream:
            while frame := stream.read(FRAME):
                raw += len(frame)
                packed += len(packer.compress(frame))
    return packed / raw
