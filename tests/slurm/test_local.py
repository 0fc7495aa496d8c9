"""A job whose grace time is too short for the shared file system: its checkpoint goes to the node's own disk first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oci_criu_shim.task.estimate import RATES
from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.jobs import Job, Work, quoting
from tests.harness.slow_disk import slow_disk
from tests.slurm.conftest import LOSING

PLACE, RATE, GRACE_TIME = "/local", "20M", 8
PLUGSTACK = "required /usr/lib/oci-criu-shim/oci_criu_shim_spank.so local-seconds=300\n"
SETTINGS = f'local-dir = "{PLACE}"\ndump-rate = "{RATE}"\n'
WORK = Work(ticks=60, tick=0.3, mib=320)  # 16 s on the shared file system
SHIM = "oci-criu-shim"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(
        f"{NAME}-local",
        grace_time=GRACE_TIME,
        kill_wait=3,
        requeue_delay=120,
        slurm_conf=LOSING,
        plugstack=PLUGSTACK,
    ) as made:
        for node in made.compute_nodes():
            made.exec(node, ["mkdir", "-m", "1777", PLACE], "root")
        yield made


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


@pytest.fixture(autouse=True)
def slow(cluster: Cluster, bundle: str) -> Iterator[None]:
    with jobs.settings(cluster, SETTINGS):
        yield


def started(cluster: Cluster, bundle: str, name: str, *options: str) -> Job:
    job = jobs.batch(cluster, bundle, name, WORK, *jobs.OPTIONS, *options)
    job.wait_running()
    job.wait_ticks(4)
    return job


def on_the_disk(cluster: Cluster, node: str) -> list[str]:
    return cluster.exec(node, ["ls", "-A", PLACE], "root").stdout.split()


def test_it_is_copied_by_the_epilog(cluster: Cluster, bundle: str) -> None:
    """And the job goes on from it, on the other node."""
    with slow_disk(cluster, jobs.CHECKPOINTS, RATE):
        job = started(cluster, bundle, "local")
        with quoting(job):
            node = job.nodes[0]
            job.preempt()
            assert f"is on {node} alone until the job's epilog has copied it to " in job.output()
            assert on_the_disk(cluster, node) == []
            status = cluster.exec("ctl", [SHIM, "job", "status", job.number]).stdout
            assert " only" not in status and "removed" not in status
            job.wait_end()
            assert not job.failures()


def half_copied(job: Job) -> str:
    """Preempt a job that has another checkpoint, and wait until the second one is being copied; return the number of
    the job that has preempted it."""
    cluster = job.cluster
    cluster.exec("ctl", [SHIM, "job", "checkpoint", job.number])
    high = job.displace()
    wait_for(lambda: "the job goes on from checkpoint 1" in job.output(), 60, "the checkpoint on the disk")
    wait_for(lambda: any(job.checkpoints().glob(".stage.*/checkpoint/pages-1.img*")), 30, "the copy")
    status = cluster.exec("ctl", [SHIM, "job", "status", job.number]).stdout
    assert f"on {job.nodes[0]} only" in status
    return high


def test_a_node_that_fails_before(cluster: Cluster, bundle: str) -> None:
    """The job goes on from an older checkpoint; the one on the disk does not come between when the node is back."""
    is_lost = False
    try:
        with slow_disk(cluster, jobs.CHECKPOINTS, RATE):
            job = started(cluster, bundle, "lost")
            node = job.nodes[0]
            with quoting(job):
                high = half_copied(job)
            cluster.kill(node)
            is_lost = True
    except ClusterError:
        assert is_lost  # so there is no mount to take away on it
    with quoting(job):
        cluster.exec("ctl", ["scancel", high])
        try:
            wait_for(lambda: job.record()["job_state"] == ["PENDING"], 60, "the requeue")
            cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
            other = job.wait_running()
            assert job.wait_end() == "COMPLETED"
        finally:
            cluster.boot(node)
            cluster.exec(node, ["mkdir", "-p", "-m", "1777", PLACE], "root")
        restored = [event for event in job.events() if event.startswith("restored ")]
        assert [event.rpartition("/")[2] for event in restored] == [f"1 on {other}"]
        done = {int(line.split()[1]) for line in job.ledger().splitlines()}
        assert done == set(range(1, WORK.ticks + 1))


def test_a_checkpoint_that_is_in_time(cluster: Cluster, bundle: str) -> None:
    """It goes straight to the others: the node has a file system that is not slow, and has not seen it slow."""
    cluster.exec("ctl", ["rm", "-rf", f"{jobs.CHECKPOINTS}/{RATES}"])
    with jobs.settings(cluster, f'local-dir = "{PLACE}"\n'):
        job = started(cluster, bundle, "in-time")
        with quoting(job):
            job.preempt()
            assert " alone until " not in job.output()
            job.wait_end()
            assert not job.failures()
