"""Jobs that are preempted go on elsewhere; jobs that are not behave as under plain crun."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting

WORK = Work()
LONG = Work(ticks=60)
Submit = Callable[..., Job]
KINDS = pytest.mark.parametrize("kind", [jobs.batch, jobs.step], ids=["batch", "step"])
CHOICES = pytest.mark.parametrize("options", [jobs.OPTIONS[:2], ()], ids=["asked", "not-asked"])


def judge(job: Job) -> None:
    job.wait_end()
    assert not job.failures()


@KINDS
def test_preempted_once(shim_cluster: Cluster, shim_bundle: str, kind: Submit) -> None:
    job = kind(shim_cluster, shim_bundle, "once", WORK, *jobs.OPTIONS)
    jobs.preempt_once(job)


def test_preempted_three_times(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = jobs.batch(shim_cluster, shim_bundle, "thrice", LONG, *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(3)
        for _ in range(3):
            job.preempt()
        judge(job)


@CHOICES
def test_not_preempted(shim_cluster: Cluster, shim_bundle: str, options: tuple[str, ...]) -> None:
    job = jobs.batch(shim_cluster, shim_bundle, "alone", Work(ticks=4, tick=0.1, mib=1), *options)
    with quoting(job):
        wait_for(lambda: job.state() in jobs.ENDED, 60, "its end")
        assert job.state() == "COMPLETED"
        assert not job.events()
        assert said(job.output()) == ["tick 1", "tick 2", "tick 3", "tick 4", "end sum-ok"]


@CHOICES
@pytest.mark.parametrize(
    "argv",
    [("sh", "-c", "echo out; echo err >&2"), ("sh", "-c", "echo out; exit 7"), ("no-such-command",)],
    ids=["status-0", "status-7", "not-found"],
)
def test_like_plain_crun(
    shim_cluster: Cluster,
    shim_bundle: str,
    plain_cluster: Cluster,
    plain_bundle: str,
    options: tuple[str, ...],
    argv: tuple[str, ...],
) -> None:
    shim = shim_cluster.exec("ctl", ["srun", *options, f"--container={shim_bundle}", *argv], check=False)
    plain = plain_cluster.exec("ctl", ["srun", f"--container={plain_bundle}", *argv], check=False)
    assert (shim.returncode, shim.stdout) == (plain.returncode, plain.stdout)
    assert said(shim.stderr) == said(plain.stderr)


@CHOICES
def test_killed_like_plain_crun(
    shim_cluster: Cluster,
    shim_bundle: str,
    plain_cluster: Cluster,
    plain_bundle: str,
    options: tuple[str, ...],
) -> None:
    assert killed(shim_cluster, shim_bundle, *options) == killed(plain_cluster, plain_bundle)


def said(text: str) -> list[str]:
    """Output without lines of Slurm's, which name jobs, or of crun's helpers for subids, and without times of day."""
    lines = (line for line in text.splitlines() if line and not jobs.NOT_ITS_OWN.match(line))
    return [line.partition("Z: ")[2] or line for line in lines]


def killed(cluster: Cluster, bundle: str, *options: str) -> int:
    """What srun returns where the container's first process is killed by signal 9."""
    argv = ["srun", "-w", "n1", *options, f"--container={bundle}", "sleep", "6006"]
    kill = ["pkill", "-KILL", "-xf", "(.*/)?sleep 6006"]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(cluster.exec, "ctl", argv, check=False, timeout=40)
        wait_for(lambda: cluster.exec("n1", kill, "root", check=False).returncode == 0, 20, "the container's process")
        return running.result().returncode
