"""Tests that a job whose node fails goes on elsewhere from its newest checkpoint, and loses only what came later."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work
from tests.harness.verdict import ledger_failures

INTERVAL = ("--checkpoint=preempt,interval:2s", *jobs.OPTIONS[1:])
Kill = Callable[[str], None]


@pytest.fixture
def kill(losing_cluster: Cluster) -> Iterator[Kill]:
    """Takes the power from a node; it gets it back at the end."""
    lost: list[str] = []

    def take(node: str) -> None:
        lost.append(node)
        losing_cluster.kill(node)

    yield take
    for node in lost:
        losing_cluster.boot(node)


def committed(job: Job) -> list[int]:
    """The numbers of its checkpoints, oldest first."""
    return sorted(int(path.name) for path in job.checkpoints().glob("*") if path.name.isdecimal())


def is_dumping(job: Job) -> bool:
    return any(job.checkpoints().glob(".stage.*/checkpoint/pages-*.img"))


@contextmanager
def failing(job: Job, kill: Kill) -> Iterator[None]:
    """Its node fails after the block; it goes on elsewhere, and is judged when it has ended."""
    node = job.wait_running()
    wait_for(lambda: committed(job), 60, "a checkpoint")
    yield
    kill(node)
    newest, before = committed(job)[-1], job.ledger()
    wait_for(lambda: job.record()["restart_cnt"] == 1, 60, "the requeue")
    # Slurm holds it back for as long as ever: there was no epilog to make it eligible.
    job.cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
    other = job.wait_running()
    assert job.wait_end() == "COMPLETED", job.quoted()
    restored = [event for event in job.events() if event.startswith("restored ")]
    assert len(restored) == 1 and restored[0].endswith(f"/{newest} on {other}") and other != node, job.quoted()
    assert ledger_failures(job.ledger(), job.output(), job.work.ticks, job.work.tick) == [], job.quoted()
    cut = re.findall(r" goes back to its length at the checkpoint .* is kept in \S+/(cut/\S+)\n", job.output())
    lost = (job.checkpoints() / cut[0]).read_text() if cut else ""
    assert before.endswith(lost) and job.ledger().startswith(before.removesuffix(lost)), job.quoted()


def test_after_a_checkpoint(losing_cluster: Cluster, losing_bundle: str, kill: Kill) -> None:
    work = Work(ticks=24, tick=0.4, mode="append")
    job = jobs.batch(losing_cluster, losing_bundle, "lost", work, *INTERVAL)
    with failing(job, kill):
        job.wait_ticks(job.ticks() + 3)
    assert "goes back to its length" in job.output(), job.quoted()


def test_in_the_middle_of_a_dump(losing_cluster: Cluster, losing_bundle: str, kill: Kill) -> None:
    work = Work(ticks=24, tick=0.4, mib=64, mode="offset")
    job = jobs.batch(losing_cluster, losing_bundle, "midst", work, *INTERVAL)
    with failing(job, kill):
        wait_for(lambda: is_dumping(job), 60, "a dump")
