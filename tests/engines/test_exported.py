"""Checkpoints of jobs that go on as podman's containers, on another node than the job's."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import NAME, jobs, verdict
from tests.cluster import Cluster, wait_for
from tests.engines.support import PODMAN, SHIM, Engine, leftovers
from tests.jobs import CHECKPOINTS, Job, Work

# A shell that reads the batch script, and has a file of its root file system open, which it does not append to.
COUNTING = "exec 7>/var/counted; i=0; while :; do echo $i >&7; echo $i; i=$((i+1)); sleep 0.1; done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-engine-exported", kill_wait=3, slurm_conf=("MessageTimeout=2",)) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


@pytest.fixture
def podman(cluster: Cluster) -> Iterator[Engine]:
    """podman on the second node, where it has no image; it takes the runtime that an archive names."""
    engine = Engine(cluster, PODMAN, "n2")
    yield engine
    engine("rm", "--all", "--force", "--time=0")
    wait_for(lambda: leftovers(cluster, "n2") == "", 10, f"nothing to be left: {leftovers(cluster, 'n2')}")


def checkpointed(job: Job) -> str:
    """Where it is checkpointed to, on request, on the first node; it runs on."""
    job.cluster.exec("ctl", [SHIM, "job", "checkpoint", job.number])
    return f"{CHECKPOINTS}/{job.number}/batch.0/1"


def cancel(job: Job) -> None:
    job.cluster.exec("ctl", ["scancel", job.number])
    assert job.wait_end() == "CANCELLED"


def export(cluster: Cluster, checkpoint: str, name: str, *options: str) -> str:
    """The archive that the user has written of it."""
    cluster.exec("n1", [SHIM, "ckpt", "export", *options, checkpoint, f"/home/alice/{name}.tar"])
    return f"/home/alice/{name}.tar"


@contextmanager
def away(cluster: Cluster, bundle: str) -> Iterator[None]:
    """The bundle is on no node meanwhile."""
    cluster.exec("n1", ["mv", bundle, f"{bundle}.away"])
    try:
        yield
    finally:
        cluster.exec("n1", ["mv", f"{bundle}.away", bundle])


def test_a_job_goes_on(cluster: Cluster, bundle: str, podman: Engine) -> None:
    """To its end, in the bundle's own root file system, as the user that it was."""
    job = jobs.batch(cluster, bundle, "ledger", Work(ticks=60, tick=0.1), "--nodelist=n1", *jobs.OPTIONS)
    job.wait_ticks(5)
    archive = checkpointed(job)
    cancel(job)
    reached = job.ledger()
    path = export(cluster, archive, "ledger")
    with tarfile.open(cluster.home.parent / path[1:]) as written:
        config = json.load(written.extractfile("config.dump") or pytest.fail("no config.dump"))
    podman("container", "restore", f"--import={path}")
    assert podman("ps", "--quiet", "--no-trunc").stdout.split() == [config["id"]]
    assert podman("exec", "--latest", "cat", "/proc/self/uid_map").stdout.split() == ["0", "1000", "1"]
    assert podman("wait", "--latest").stdout.strip() == "0"
    rest = job.ledger().removeprefix(reached)
    kept = int(rest.split()[1]) - 1  # what the job did after its checkpoint is done once more
    ledger = "".join(reached.splitlines(keepends=True)[:kept]) + rest
    assert verdict.ledger_failures(ledger, podman("logs", "--latest").stdout, 60, 0.1) == []


def test_without_the_bundle(cluster: Cluster, bundle: str, podman: Engine) -> None:
    """Two containers of one archive, each with the files as they were; podman's own archives of them, in turn."""
    job = jobs.submit(cluster, "counting", COUNTING, Work(), "--nodelist=n1", f"--container={bundle}", *jobs.OPTIONS)
    wait_for(lambda: "5\n" in job.output(), 30, "it to count")
    checkpoint = checkpointed(job)
    counted = cluster.home / "alice/bundle/rootfs/var/counted"
    length = counted.stat().st_size
    wait_for(lambda: counted.stat().st_size > length, 20, "it to run on")
    path = export(cluster, checkpoint, "counting", "--rootfs")
    cancel(job)
    with away(cluster, bundle):
        for name in ("a", "b"):
            podman("container", "restore", f"--import={path}", f"--name={name}")
        begun = {name: podman.wait_counts(name, 0)[0] for name in ("a", "b")}
        podman("container", "checkpoint", "--export=/shared/again.tar", "--compress=none", "b")
        podman("rm", "b")
        podman("container", "restore", "--import=/shared/again.tar")
        for name in ("a", "b"):
            podman.wait_counts(name, begun[name] + 30)
            written = [int(line) for line in podman("exec", name, "cat", "/var/counted").stdout.split()]
            assert written == list(range(len(written)))
            assert len(written) > begun[name] + 30
        assert begun["a"] == begun["b"] < written[-1]
        podman("pause", "a")
        podman("unpause", "a")
        podman("container", "checkpoint", "a")
        podman("container", "restore", "a")


def test_the_bundle_is_missed(cluster: Cluster, bundle: str, podman: Engine) -> None:
    job = jobs.batch(cluster, bundle, "missed", Work(ticks=100), "--nodelist=n1", *jobs.OPTIONS)
    job.wait_ticks(1)
    checkpoint = checkpointed(job)
    cancel(job)
    path = export(cluster, checkpoint, "missed")
    with away(cluster, bundle):
        refused = podman("container", "restore", f"--import={path}", check=False)
    assert refused.returncode != 0
    assert f"the container's root file system is not on this node: {bundle}/rootfs" in refused.stderr
    assert "--rootfs" in refused.stderr
