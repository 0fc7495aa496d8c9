"""A preempted job goes on elsewhere, where control groups are of version 2 alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import NAME, jobs
from tests.cluster import Cluster

PATIENT = ("MessageTimeout=60", "SlurmdTimeout=300")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, with the time that an emulated machine needs."""
    with Cluster(f"{NAME}-kernel", grace_time=300, kill_wait=30, slurm_conf=PATIENT) as running:
        yield running


def test_preempted(cluster: Cluster) -> None:
    work = jobs.Work(ticks=40, tick=1, mib=4)
    job = jobs.batch(cluster, jobs.prepare(cluster), "moved", work, *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    job.preempt()
    job.wait_end()
    assert not job.failures(), job.quoted()
