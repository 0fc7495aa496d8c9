"""Tests what Slurm has had since 25.11: requeueing that is expedited, and steps that srun does not wait for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster
from tests.harness.cluster.suite import SUITE
from tests.harness.jobs import Work

pytestmark = pytest.mark.skipif(not SUITE.has_expedited_requeue, reason="Slurm has neither before 25.11")

LINES = ("SlurmctldParameters=enable_expedited_requeue,enable_stepmgr", "SchedulerParameters=requeue_delay=600")
# The step writes where srun would; the script waits for it, since srun does not.
ASYNC = """
output=/home/alice/$SLURM_JOB_ID.out
srun --async --container={bundle} --open-mode=append --output=$output {{command}} >/dev/null
until grep -q '^end' $output; do sleep 0.5; done
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, on which no job that is not expedited starts again before long."""
    with Cluster(f"{NAME}-newer", grace_time=30, kill_wait=3, slurm_conf=LINES) as running:
        yield running


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


def test_expedited(cluster: Cluster, bundle: str) -> None:
    job = jobs.batch(cluster, bundle, "expedited", Work(), "--requeue=expedite", *jobs.OPTIONS)
    jobs.preempt_once(job)
    assert "setting begin" not in cluster.logs("ctl")  # it begins as soon as it can


def test_asynchronous_step(cluster: Cluster, bundle: str) -> None:
    """The job's extern step manages it."""
    job = jobs.submit(cluster, "async", ASYNC.format(bundle=bundle), Work(), "--stepmgr", *jobs.OPTIONS)
    jobs.preempt_once(job)
