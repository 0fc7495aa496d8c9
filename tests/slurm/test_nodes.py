"""Jobs of several nodes: the first of them that is ready has the job requeued, and the others still take theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting
from tests.harness.verdict import ledger_failures

WORK = Work(ticks=40)
TASKS = (0, 1)
LATE = """\
#!/bin/sh
case "$*" in
"show job "*) until [ "$(/usr/bin/squeue --noheader --format=%t --jobs="$3")" = CG ]; do sleep 0.1; done ;;
esac
exec /usr/bin/scontrol "$@"
"""
"""A scontrol that does not answer for a job before that is being requeued."""


@pytest.fixture(scope="module")
def nodes_cluster() -> Iterator[Cluster]:
    """Two nodes, and time enough for a checkpoint when the job is being requeued."""
    with Cluster(f"{NAME}-nodes", grace_time=30, kill_wait=30, requeue_delay=120) as running:
        jobs.prepare(running)
        yield running


def submit(cluster: Cluster, name: str, when: str) -> Job:
    """A job with a step of a task on each node, which keep a ledger each."""
    for rank in TASKS:
        (cluster.shared / f"{name}.{rank}").unlink(missing_ok=True)
    command = WORK.command(f"/shared/{name}.$SLURM_PROCID")
    # The script is not replaced by srun: were that killed alone, a helper of its own would have the step killed.
    script = f"srun --container=/home/alice/bundle sh -c 'exec {command}'"
    job = jobs.submit(cluster, name, script, WORK, f"--checkpoint={when}", *jobs.OPTIONS[1:], "-N2", "-n2")
    wait_for(lambda: all(ledger(job, name, rank).count("\n") > 3 for rank in TASKS), 60, "both tasks at work")
    return job


def ledger(job: Job, name: str, rank: int) -> str:
    path = job.cluster.shared / f"{name}.{rank}"
    return path.read_text() if path.exists() else ""


def judge(job: Job, name: str) -> None:
    """Each of its tasks went on where it was."""
    assert job.wait_end() == "COMPLETED"
    events = "\n".join(job.events())
    assert job.output().count("end sum-ok\n") == len(TASKS)
    for rank in TASKS:
        assert not ledger_failures(ledger(job, name, rank), "end sum-ok\n", WORK.ticks, WORK.tick)
        assert f"restored job {job.number} step 0 task {rank} " in events


@contextmanager
def late(cluster: Cluster, node: str) -> Iterator[None]:
    """A node that learns late of what becomes of a job."""
    path = "/usr/local/sbin/scontrol"
    cluster.exec(node, ["sh", "-c", f"cat >{path} && chmod 755 {path}"], "root", input=LATE)
    try:
        yield
    finally:
        cluster.exec(node, ["rm", path], "root")


def test_a_node_that_is_late(nodes_cluster: Cluster) -> None:
    """It asks Slurm when the job is being requeued already."""
    job = submit(nodes_cluster, "late", "preempt")
    with quoting(job):
        other = ({*nodes_cluster.compute_nodes()} - {job.record()["batch_host"]}).pop()
        with late(nodes_cluster, other):
            argv = ["sbatch", "-p", "high", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "true"]
            nodes_cluster.exec("ctl", argv)
            wait_for(lambda: job.record()["restart_cnt"] == 1 and "COMPLETING" not in job.state(), 60, "the requeue")
        judge(job, "late")


def test_requeued_by_another_node(nodes_cluster: Cluster) -> None:
    """At the time limit, which can't be told from a requeue by hand."""
    job = submit(nodes_cluster, "limit", "timeout")
    with quoting(job):
        nodes_cluster.exec("ctl", ["scontrol", "requeue", job.number])
        judge(job, "limit")
