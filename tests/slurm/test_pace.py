"""Jobs that are preempted together wait for each other, and all of them have a checkpoint in time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests import NAME
from tests.harness import jobs, pages
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting
from tests.harness.slow_disk import slow_disk

MANY, WRITERS = 12, 2
PLACE = "/shared/pace"
# By this rate each would take long, so all may wait for minutes. It takes seconds.
SETTINGS = f'pace-dir = "{PLACE}"\ndump-rate = "2M"\n'
RATE = "20M"
ENDLESS = Work(ticks=1 << 30, tick=0.5)
SHIM = "oci-criu-shim"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-pace", cpus=MANY // 2, grace_time=120, kill_wait=3, requeue_delay=120) as made:
        jobs.share(made)
        line = pages.block(pages.DOCS / "pacing.md", "The files", "touch")
        words = line.replace(pages.PACE, PLACE).replace("$(seq 16)", f"$(seq {WRITERS})")
        made.exec("n1", ["sh", "-ec", words], "root")
        yield made


def test_no_more_than_the_site_allows_are_written_at_once(cluster: Cluster) -> None:
    with slow_disk(cluster, jobs.CHECKPOINTS, RATE), jobs.settings(cluster, SETTINGS):
        many = [jobs.submit(cluster, f"pace{n}", "exec {command}", ENDLESS, *jobs.OPTIONS) for n in range(MANY)]
        with quoting(many[0]):
            for job in many:
                job.wait_running()
                job.wait_ticks(2)
            high = preempt(cluster, many)
            wait_for(lambda: all(events(job, "requeueing") for job in many), 120, "all checkpoints")
            cluster.exec("ctl", ["scancel", high])
            for job in many:
                job.wait_restart()
            taken = checkpoints(cluster)
            assert len(taken) == MANY and not any(events(job, "error: ") for job in many)
            assert max(map(len, beside(taken))) <= WRITERS
            assert any(one["waited"] for one in taken) and any(events(job, "the checkpoint of ") for job in many)
            for job in many:
                numbers = [int(line.split()[1]) for line in job.ledger().splitlines()]
                assert numbers == list(range(1, len(numbers) + 1))
        cluster.exec("ctl", ["scancel", *(job.number for job in many)])
        wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "the end of all jobs")


def preempt(cluster: Cluster, many: Sequence[Job]) -> str:
    """Preempt all of them by one job that wants both nodes; return its number."""
    for job in many:
        job.preemptions += 1
    argv = ["sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600"]
    return cluster.exec("ctl", argv).stdout.strip()


def events(job: Job, beginning: str) -> list[str]:
    return [event for event in job.events() if event.startswith(beginning)]


def checkpoints(cluster: Cluster) -> list[dict[str, Any]]:
    """Return what the histories say of all checkpoints."""
    said = cluster.exec("ctl", [SHIM, "job", "status", "--json", f"--checkpoint-dir={jobs.CHECKPOINTS}"]).stdout
    return [one for job in json.loads(said) for task in job["tasks"] for one in task["checkpoints"]]


def beside(taken: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield, for each checkpoint, all that were being written in the middle of its dump."""
    for one in taken:
        middle = one["at"] + one["frozen"] / 2
        yield [other for other in taken if other["at"] <= middle <= other["at"] + other["frozen"]]
