"""Tests a preempted job and the groups of a dump, on a kernel that tracks memory and has only version 2 of groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.suite import SUITE
from tests.slurm.test_worker_groups import SCRIPT, check_placed, group_name, groups

PATIENT = ("MessageTimeout=60", "SlurmdTimeout=300")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, with the time that an emulated machine needs."""
    with Cluster(f"{NAME}-kernel", grace_time=300, kill_wait=30, slurm_conf=PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


# Until it is told to end, however long the checkpoints of an emulated machine take.
COUNT = """
import itertools, os, time
with open("/shared/counted", "a", buffering=1) as stream:
    for count in itertools.count():
        print(count, file=stream)
        if os.path.exists("/shared/end"):
            break
        time.sleep(0.5)
"""


def test_preempted(cluster: Cluster, bundle: str) -> None:
    """From a checkpoint that has what had changed since those before."""
    (cluster.shared / "count.py").write_text(COUNT)
    options = (f"--container={bundle}", "--checkpoint=preempt,interval:15s", *jobs.OPTIONS[1:])
    job = jobs.submit(cluster, "moved", "exec python3 /shared/count.py", jobs.Work(), *options)
    with jobs.quoting(job):
        job.wait_running()
        wait_for(lambda: any(" MiB more than " in event for event in job.events()), 120, "an increment")
        high = job.displace()
        wait_for(lambda: any(event.startswith("restored ") for event in job.events()), 120, "the restore")
        (cluster.shared / "end").touch()
        assert job.wait_end() == "COMPLETED"
        assert job.record()["restart_cnt"] == 1
        counted = [int(line) for line in (cluster.shared / "counted").read_text().split()]
        assert counted == list(range(len(counted)))
    cluster.exec("ctl", ["scancel", high])


def test_a_job_ends_as_soon_as_any(cluster: Cluster) -> None:
    """Slurm waits for nothing of ours, as it does for what it can't kill."""
    cluster.exec("ctl", ["srun", "--checkpoint", "true"], timeout=120)
    wait_for(lambda: set(cluster.node_states().values()) == {"idle"}, 60, "the end of the job")
    assert "giving up after" not in cluster.logs("n1")


def test_a_dump_is_in_its_jobs_groups(cluster: Cluster, bundle: str) -> None:
    """And keeps Slurm from removing none, also if they have the job's number for a name."""
    if SUITE.names_groups_by_sluid:
        (cluster.conf / "cgroup.conf").open("a").write("CgroupJobIdPaths=yes\n")
        cluster.reconfigure()
    job = jobs.submit(cluster, "placed", SCRIPT, jobs.Work(ticks=2000), f"--container={bundle}", *jobs.OPTIONS)
    with jobs.quoting(job):
        node = job.wait_running()
        job.wait_ticks(2)
        name = group_name(job, node)
        assert name == f"job_{job.number}"
        assert check_placed(job, node) == {""}
        cluster.exec("ctl", ["scancel", job.number])
        job.wait_end()
        wait_for(lambda: not groups(cluster, node, name), 60, "the end of the job's groups")
