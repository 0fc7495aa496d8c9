"""What is kept of a job that was preempted: its history, and the node's metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.cli import parse
from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of a cluster need root")

METRICS = "/var/lib/node-exporter"
PLUGSTACK = f"required /usr/lib/oci-criu-shim/oci_criu_shim_spank.so metrics={METRICS}\n"
FAILURES = "oci_criu_shim_dump_failures_total"
STATUS = ("oci-criu-shim", "job", "status", f"--checkpoint-dir={jobs.CHECKPOINTS}")
# CRIU can't dump what a UDP socket holds back (UDP_CORK).
CORKED = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as corked:
    corked.setsockopt(socket.IPPROTO_UDP, 1, 1)
    print("corked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    options: dict[str, Any] = {"grace_time": 20, "kill_wait": 3, "requeue_delay": 120}
    with Cluster(f"{NAME}-history", plugstack=PLUGSTACK, **options) as running:
        for node in running.compute_nodes():
            running.exec(node, ["mkdir", METRICS], "root")
        yield running


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


def status(cluster: Cluster, job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.exec("n1", [*STATUS, "--json", job.number]).stdout)
    return found


def metrics(cluster: Cluster, node: str) -> dict[str, float]:
    """What the node's file counts, but for what is 0."""
    text = cluster.exec(node, ["sh", "-c", f"cat {METRICS}/*.prom 2>/dev/null"], "alice", check=False).stdout
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines if float(value)}


def drawn(cluster: Cluster, job: Job, directory: Path) -> str:
    """Its timeline, by our own matplotlib: the nodes have none."""
    shutil.copytree(cluster.home / "alice/ckpt/history", directory / "history")
    picture = directory / "timeline.svg"
    words = ["--checkpoint-dir", str(directory), "--timeline", str(picture)]
    assert parse.main(["job", "status", *words, job.number]) == 0
    return picture.read_text()


def test_preempted_once(cluster: Cluster, bundle: str, tmp_path: Path) -> None:
    job = jobs.batch(cluster, bundle, "kept", Work(), *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(4)
        assert status(cluster, job)["state"] == "running"
        job.preempt()
        assert job.wait_end() == "COMPLETED"
        wait_for(lambda: not job.checkpoints().exists(), 20, "its checkpoints to be removed")
        found = status(cluster, job)
    (task,) = found["tasks"]
    assert (found["state"], found["nodes"], task["task"]) == ("completed", job.nodes, "batch.0")
    assert [(run["outcome"], run["restarts"]) for run in task["runs"]] == [("checkpointed", 0), ("completed", 1)]
    (checkpoint,) = task["checkpoints"]
    assert (checkpoint["reason"], checkpoint["runs_on"], task["problems"]) == ("preempt", False, [])
    assert task["runs"][1]["restored"]["path"] == checkpoint["path"]
    assert task["runs"][0]["kept"] > 0 and task["runs"][0]["end"] <= task["runs"][1]["begin"]
    picture = drawn(cluster, job, tmp_path)
    kinds = {"work": 2, "checkpoint": 1, "wait": 1, "restore": 1, "lost": 0, "failed": 0}
    assert {kind: picture.count(f'<g id="{kind}-') for kind in kinds} == kinds
    for text in (*job.nodes, f"Job {job.number} (kept): completed"):
        assert f">{text}</text>" in picture
    words = [*STATUS, job.number, "--timeline=/home/alice/timeline.html"]
    cluster.exec("n1", words)  # the nodes have no matplotlib
    assert f'"title": "Job {job.number} (kept): completed"' in (cluster.home / "alice/timeline.html").read_text()
    listed = cluster.exec("n2", STATUS).stdout
    assert re.search(rf"(?m)^{job.number} +kept +completed .* 2 +1 +1 .*{','.join(job.nodes)}$", listed)
    first, second = (metrics(cluster, node) for node in job.nodes)
    assert first.pop("oci_criu_shim_dumps_total") == 1
    assert 16 << 20 < first.pop("oci_criu_shim_dump_bytes_total") <= checkpoint["bytes"]
    assert first.pop("oci_criu_shim_dump_seconds_total") > 0
    assert first == second == {}


def test_a_dump_that_fails(cluster: Cluster, bundle: str) -> None:
    (cluster.shared / "corked.py").write_text(CORKED)
    job = jobs.submit(cluster, "fails", f"exec srun --container={bundle} python3 /shared/corked.py", Work(),
                      *jobs.OPTIONS)  # fmt: skip
    with quoting(job):
        node = job.wait_running()
        wait_for(lambda: "corked" in job.output(), 30, "its socket")
        before = metrics(cluster, node)
        done = cluster.exec(node, ["oci-criu-shim", "job", "checkpoint", "--here", job.number], check=False)
        assert done.returncode
        name = f'{FAILURES}{{cause="criu"}}'
        wait_for(lambda: metrics(cluster, node) == before | {name: 1}, 10, "the count")
        (task,) = status(cluster, job)["tasks"]
        assert [(one["event"], one["node"]) for one in task["problems"]] == [("checkpoint-failed", node)]
        assert "corked" in task["problems"][0]["reason"]
        socket = f"/run/oci-criu-shim/{job.number}/helper.0.sock"
        tried = cluster.exec(node, ["python3", "-IB", "/src/tests/harness/programs/peek.py", socket]).stdout
        assert tried == "5\n"
        assert metrics(cluster, node) == before | {name: 1}


def test_not_asked(cluster: Cluster, bundle: str) -> None:
    look = ["sh", "-c", f"ls {jobs.CHECKPOINTS} ~/.local/state 2>&1; cat {METRICS}/*.prom 2>&1"]
    before = cluster.exec("n1", look, check=False).stdout
    cluster.exec("ctl", ["srun", "-w", "n1", f"--container={bundle}", "true"])
    assert cluster.exec("n1", look, check=False).stdout == before


def test_who_asks(cluster: Cluster) -> None:
    for words in (STATUS, ("oci-criu-shim", "ckpt", "list", jobs.CHECKPOINTS)):
        refused = cluster.exec("n1", words, "bob", check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert f"{jobs.CHECKPOINTS}: Permission denied" in refused.stderr
    refused = cluster.exec("n1", [*STATUS, "4242"], check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"job 4242 has no history in {jobs.CHECKPOINTS}" in refused.stderr
