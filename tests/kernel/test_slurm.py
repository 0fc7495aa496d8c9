"""A preempted job goes on elsewhere, where control groups are of version 2 alone, and the kernel tracks memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import NAME, jobs
from tests.cluster import Cluster, wait_for

PATIENT = ("MessageTimeout=60", "SlurmdTimeout=300")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, with the time that an emulated machine needs."""
    with Cluster(f"{NAME}-kernel", grace_time=300, kill_wait=30, slurm_conf=PATIENT) as running:
        yield running


def test_preempted(cluster: Cluster) -> None:
    """From a checkpoint that has what had changed since those before."""
    work = jobs.Work(ticks=120, tick=1, mib=4)
    asked = ("--checkpoint=preempt,interval:15s", *jobs.OPTIONS[1:])
    job = jobs.batch(cluster, jobs.prepare(cluster), "moved", work, *asked)
    job.wait_running()
    wait_for(lambda: any(" MiB more than " in event for event in job.events()), 120, "an increment")
    job.preempt()
    job.wait_end(300)
    assert not job.failures(), job.quoted()
