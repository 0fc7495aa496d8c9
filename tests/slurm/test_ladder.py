"""What a restarted job goes on from, and where, when not all is well; and jobs that begin where another one was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import jobs
from tests.cluster import Cluster, wait_for
from tests.jobs import Job, Work

WORK = Work(ticks=60)
SETTINGS = "/etc/oci-criu-shim/config.toml"


@contextmanager
def settings(cluster: Cluster, text: str) -> Iterator[None]:
    """The site's settings on all nodes, for a while."""
    for node in cluster.compute_nodes():
        cluster.exec(node, ["tee", SETTINGS], "root", input=text)
    try:
        yield
    finally:
        for node in cluster.compute_nodes():
            cluster.exec(node, ["tee", SETTINGS], "root", input="")


def displaced(job: Job) -> str:
    """Run it, preempt it, and wait until it is queued; the number of the job that took its node."""
    job.wait_running()
    job.wait_ticks(3)
    high = job.displace()
    said(job, f"requeueing job {job.number}")
    return high


def said(job: Job, text: str, times: int = 1) -> None:
    """Wait until the runtime has said it so often."""

    def enough() -> bool:
        return sum(text in event for event in job.events()) >= times

    try:
        wait_for(enough, 60, text)
    except Exception:
        print(job.quoted())
        raise


def comment(job: Job) -> str:
    return str(job.record()["comment"])


def go_on(job: Job, high: str) -> None:
    """Give the node back, and see the job go on there from its checkpoint, as if nothing had been."""
    job.cluster.exec("ctl", ["scancel", high])
    said(job, f"restored job {job.number} step batch task 0 from {jobs.CHECKPOINTS}/{job.number}/batch.0/1 on ")
    job.wait_ticks(job.ticks() + 2)
    assert job.record()["nodes"] == job.nodes[0]


def test_where_the_restore_failed(shim_cluster: Cluster, shim_bundle: str) -> None:
    """CRIU finds no file that was open; the next node has it."""
    held = shim_cluster.shared / "held"
    held.write_text("open")
    held.chmod(0o644)
    script = f"exec sh -c 'exec 3</shared/{held.name}; exec {{command}}'"
    options = (f"--container={shim_bundle}", "--comment=mine | his", *jobs.OPTIONS)
    job = jobs.submit(shim_cluster, "failed", script, WORK, *options)
    high = displaced(job)
    held.rename(aside := held.with_name("aside"))
    other = ({"n1", "n2"} - {job.nodes[0]}).pop()
    log = job.checkpoints() / "1/restore.log"
    said(job, f"to go on on another node than {other}")
    said(job, f"(see {jobs.CHECKPOINTS}/{job.number}/batch.0/1/restore.log)")
    assert "Error (criu/" in log.read_text()
    wait_for(lambda: job.record()["excluded_nodes"] == other, 30, "the node to be left out")
    assert comment(job).startswith(f"mine | his | oci-criu-shim: requeued from {other}: CRIU could not restore")
    assert shim_cluster.exec("n1", ["oci-criu-shim", "ckpt", "verify", str(Path(jobs.CHECKPOINTS, job.number, "batch.0/1"))])
    aside.rename(held)
    go_on(job, high)
    wait_for(lambda: comment(job) == "mine | his | oci-criu-shim: restored from 1", 30, "the new comment")
    assert not log.exists()
