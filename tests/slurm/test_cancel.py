"""Jobs that are cancelled or signalled before, during and after a dump."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work

LONG = Work(ticks=60)
LARGE = Work(ticks=60, mib=256)
GO_ON = ["pkill", "-CONT", "-f", "^criu: dump "]


def start(cluster: Cluster, bundle: str, name: str, work: Work = LONG) -> Job:
    job = jobs.batch(cluster, bundle, name, work, *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    return job


def store(job: Job) -> str:
    return f"{jobs.CHECKPOINTS}/{job.number}/batch.0"


def committed(job: Job) -> list[str]:
    """The job's checkpoints that a restart would find."""
    found = job.cluster.exec("n1", ["find", f"{jobs.CHECKPOINTS}/{job.number}", "-name", "manifest.json"])
    return found.stdout.splitlines()


@contextmanager
def held_dump(job: Job, begin: Callable[[], object] | None = None) -> Iterator[None]:
    """Preempt a job, or `begin` a dump of it in another way; the dump stands still in the block."""
    node = job.nodes[-1]
    with jobs.held(job, node, store(job)):
        (begin or job.displace)()
    yield
    job.cluster.exec(node, GO_ON, "root", check=False)


def cancel(job: Job) -> None:
    job.cluster.exec("ctl", ["scancel", job.number])
    assert job.wait_end() == "CANCELLED", job.quoted()


def test_before_a_dump(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = start(shim_cluster, shim_bundle, "cancel-before")
    cancel(job)
    assert not any("checkpointed" in event for event in job.events()), job.quoted()
    assert not committed(job)


@pytest.mark.parametrize("when", ["preempt", "interval:1h"])
def test_how_it_ended(shim_cluster: Cluster, shim_bundle: str, when: str) -> None:
    """Slurm is asked by whoever the signal may concern, who is killed soon after, or else by `job status`."""
    job = jobs.batch(shim_cluster, shim_bundle, "cancelled", LONG, f"--checkpoint={when}", *jobs.OPTIONS[1:])
    job.wait_running()
    job.wait_ticks(3)
    cancel(job)
    history = shim_cluster.home / f"alice/ckpt/history/{job.number}/batch.0.jsonl"
    if when == "preempt":
        wait_for(lambda: "CANCELLED" in history.read_text(), 20, "its note")
    else:
        assert "CANCELLED" not in history.read_text()
    words = ["oci-criu-shim", "job", "status", "--json", f"--checkpoint-dir={jobs.CHECKPOINTS}", job.number]
    found = json.loads(shim_cluster.exec("n1", words).stdout)
    assert (found["state"], found["name"]) == ("cancelled", "cancelled")
    assert abs(found["end"] - job.record()["end_time"]["number"]) < 30


def test_during_a_dump(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = start(shim_cluster, shim_bundle, "cancel-during", LARGE)
    with held_dump(job):
        cancel(job)
    assert not committed(job)
    assert not any(event.startswith("checkpointed") for event in job.events()), job.quoted()


@pytest.mark.parametrize("when", ["requeueing", "restored"])
def test_after_a_dump(shim_cluster: Cluster, shim_bundle: str, when: str) -> None:
    job = start(shim_cluster, shim_bundle, f"cancel-{when}")
    job.displace()
    wait_for(lambda: any(event.startswith(when) for event in job.events()), 60, when)
    cancel(job)
    assert committed(job) == [f"{store(job)}/1/manifest.json"]


def test_signals_during_a_dump_do_not_disturb_it(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = start(shim_cluster, shim_bundle, "signals", LARGE)
    with held_dump(job):
        shim_cluster.exec("ctl", ["scancel", "--batch", "--signal=TERM", job.number])
        shim_cluster.exec("n1", ["sh", "-c", f"kill -TERM $(cat /run/oci-criu-shim/{job.number}/*/pid)"])
    job.wait_restart()
    shim_cluster.exec("ctl", ["scancel", "--user=alice", "--partition=high"])
    job.wait_end()
    assert not job.failures(), job.quoted()


def test_a_preemption_during_a_dump_on_request(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Which leaves it running."""
    job = start(shim_cluster, shim_bundle, "asked", LARGE)
    ask = ["sh", "-c", f"oci-criu-shim job checkpoint --here {job.number} >/dev/null 2>&1 &"]
    with held_dump(job, lambda: shim_cluster.exec(job.nodes[-1], ask)):
        high = job.displace()
        mark = ["test", "-e", f"/run/oci-criu-shim/{job.number}/signalled"]
        wait_for(lambda: shim_cluster.exec(job.nodes[-1], mark, check=False).returncode == 0, 30, "its preemption")
    job.wait_restart()
    shim_cluster.exec("ctl", ["scancel", high])
    job.wait_end()
    taken = ["(request)" in event for event in job.events() if event.startswith("checkpointed")]
    assert taken == [True, False] and not job.failures(), job.quoted()


def test_a_dump_outlasts_the_extern_step(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Slurm signals that one, too, at a preemption, and ends it KillWait later (_spawn_job_container() in mgr.c)."""
    job = start(shim_cluster, shim_bundle, "outlasts", LARGE)
    node, step = job.nodes[-1], ["pgrep", "-f", rf"^slurmstepd: \[{job.number}\.extern\]"]
    with held_dump(job):
        wait_for(
            lambda: shim_cluster.exec(node, step, "root", check=False).returncode == 1, 30, "the extern step's end"
        )
    job.wait_restart()
    shim_cluster.exec("ctl", ["scancel", "--user=alice", "--partition=high"])
    job.wait_end()
    assert not job.failures(), job.quoted()
