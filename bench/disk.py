"""Measures a preemption with its checkpoint on a slow disk, as a shared one is, and on this machine's own.

Each program is preempted in turns with `compress = "off"`, by which CRIU writes all memory raw, and `"auto"`. From
slurmctld's SIGTERM to the commit, by bench/preempt.py's clock; the restore, on another node, which has read nothing
of it before, as the job's history has it. bindfs makes the disk slow (tests/harness/slow_disk.py).
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

from bench.preempt import appears
from bench.report import Measure, Progress, Result, ratios, versions
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.process import run
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.jobs import Job, Work
from tests.harness.slow_disk import slow_disk

RUNS = 3
MIB = 256
PROGRAMS = ("numpy", "random")
SETTINGS = ("off", "auto")
RATE = "100M"
GOALS = {
    "commit_numpy_slow": 0.55,
    "restore_numpy_slow": 0.6,
    **{f"commit_{program}_own": 1.05 for program in PROGRAMS},
}
"""Of the times with compression over those without."""
SHIM = "oci-criu-shim"
Seconds = dict[str, dict[str, list[float]]]  # {measure: {setting: [seconds]}}


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes ten minutes. Raise ClusterError if a job does not do as it should."""
    times: Seconds = {}
    with Cluster("bench-disk", nodes=2, grace_time=120, requeue_delay=120, slurm_conf=jobs.SIGNALS_LOGGED) as cluster:
        jobs.prepare(cluster)
        shutil.copy(REPOSITORY / "bench/programs/memory.py", cluster.shared)
        result = Result(versions(cluster))
        for disk in ("slow", "own"):
            with slow_disk(cluster, jobs.CHECKPOINTS, RATE) if disk == "slow" else nullcontext():
                for number in range(1, RUNS + 1):
                    for program in PROGRAMS:
                        for setting in SETTINGS:
                            progress(f"{program}, {disk} disk, {setting}, {number} of {RUNS}")
                            _add(times, f"{program}_{disk}", setting, _preempt(cluster, program, setting))
    for name, found in times.items():
        result.measures |= {f"{name}_{setting}": Measure.of(found[setting]) for setting in SETTINGS}
        result.measures[f"{name}_ratio"] = Measure.of(ratios(found["auto"], found["off"]), "ratio", GOALS.get(name))
    return result


def _add(times: Seconds, name: str, setting: str, found: dict[str, float]) -> None:
    for what, seconds in found.items():
        times.setdefault(f"{what}_{name}", {}).setdefault(setting, []).append(seconds)


def _preempt(cluster: Cluster, program: str, setting: str) -> dict[str, float]:
    """Preempt a program once; return {"commit": seconds, "restore": seconds}."""
    for node in cluster.compute_nodes():
        cluster.exec(node, ["tee", jobs.SETTINGS], "root", input=f'compress = "{setting}"\n')
    ready = cluster.shared / "ready"
    ready.unlink(missing_ok=True)
    command = f"exec python3 -IS /shared/memory.py {program} {MIB} /shared/ready"
    job = jobs.submit(cluster, "disk", command, Work(), *jobs.OPTIONS)
    job.wait_running()
    wait_for(ready.exists, 120, "the program's memory")
    run(["sync"])
    committing = job.committing()
    high = job.displace(600)
    appears(job, "restored")
    found = {"commit": committing.time() - job.signalled(), "restore": _restored(job)}
    cluster.exec("ctl", ["scancel", job.number, high])
    wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "the end of both jobs")
    shutil.rmtree(_directory(job))
    return found


def _directory(job: Job) -> Path:
    return job.checkpoints().parent


def _restored(job: Job) -> float:
    """Return for how many seconds the job's restore went on."""
    said = job.cluster.exec(
        "ctl", [SHIM, "job", "status", "--json", f"--checkpoint-dir={jobs.CHECKPOINTS}", job.number]
    )
    found: float = json.loads(said.stdout)["tasks"][0]["runs"][1]["restored"]["seconds"]
    return found
