"""Tests that a job's run directory is a small file system of its own, whichever mount namespace its steps are in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import NAME
from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Work, quoting
from tests.harness.verdict import ledger_failures

RUN = "/run/oci-criu-shim"
HERE = f"{RUN}/$SLURM_JOB_ID"
PRIVATE = "AutoBasePath=true\nBasePath=/var/lib/job_container\n"
KINDS = {"tasks": PRIVATE, "whole-steps": f"{PRIVATE}EntireStepInNS=true\n"}  # what is in the job's mount namespace
LEFTOVERS = f"""
cd {HERE} && mkfifo requeued && ln -s requeued stage.1 && ln -s requeued kept.1 && ln -s /dev/zero zero
mkdir -p closed/below container && touch closed/below/file && chmod 0 closed/below closed
ln -s {HERE}/../../../home/alice container/stage.1 && ln -s / up
"""


def srun(cluster: Cluster, script: str, *options: str, check: bool = True) -> str:
    """What a script says that is a job by itself."""
    argv = ["srun", "--nodelist=n1", *options, "sh", "-c", script]
    return cluster.exec("ctl", argv, check=check).stdout


def node_state(cluster: Cluster) -> str:
    return cluster.node_states()["n1"]


def test_it_is_bounded_and_the_jobs(shim_cluster: Cluster) -> None:
    said = srun(shim_cluster, f"findmnt -nbo FSTYPE,SIZE,OPTIONS {HERE}; stat -c '%U %G %a' {HERE}; df -i {HERE}")
    kind, size, options = said.split()[:3]
    assert (kind, size) == ("tmpfs", str(256 << 20))
    assert {"nosuid", "nodev", "noexec", "uid=1000", "gid=1000", "mode=700"} <= set(options.split(","))
    assert "alice alice 700" in said and "65536" in said
    leftovers.wait_idle(shim_cluster)
    assert RUN not in shim_cluster.exec("n1", ["cat", "/proc/self/mountinfo"], "root").stdout


def test_whose_it_is_is_on_record(shim_cluster: Cluster) -> None:
    said = srun(shim_cluster, f"cat {HERE}.owner; stat -c '%U %a' {HERE}.owner")
    assert said.splitlines() == ["1000 1000", "root 644"]


def test_it_is_the_jobs_own_memory_that_it_takes(shim_cluster: Cluster) -> None:
    """Nobody fills /run, which is the node's, and the job next to it does not notice."""
    free = "stat -fc %a /run"
    before = int(shim_cluster.exec("n1", free.split()).stdout)
    script = f"cat /dev/zero >{HERE}/file; stat -fc %a {HERE}; srun --overlap -n1 true; {free}"
    rest, after = map(int, srun(shim_cluster, script, check=False).split())
    assert rest == 0 and abs(after - before) < 1 << 10  # pages, of 4 KiB
    assert srun(shim_cluster, f"echo >{HERE}/file; cat {HERE}/file") == "\n"


def test_what_a_user_leaves_is_gone(shim_cluster: Cluster) -> None:
    """The fixture sees to that. No epilog waits for a FIFO, and the node is not drained."""
    srun(shim_cluster, LEFTOVERS)
    wait_for(lambda: node_state(shim_cluster) == "idle", 20, "the node to be free")


@contextmanager
def on_one_processor() -> Iterator[None]:
    """Linux 6.18 numbers namespaces by processor, and lets none be bound to a file in one of a higher number, as
    job_container/tmpfs does (mnt_ns_loop() in fs/namespace.c)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="module", params=KINDS)
def private_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A node with the project installed, whose jobs have mount namespaces of their own."""
    conf, container = ("JobContainerType=job_container/tmpfs",), KINDS[request.param]
    cluster = Cluster(f"{NAME}-private", 1, grace_time=20, kill_wait=3, slurm_conf=conf, job_container=container)
    with on_one_processor(), cluster as running:
        yield running


@pytest.fixture(scope="module")
def private_bundle(private_cluster: Cluster) -> str:
    return jobs.prepare(private_cluster)


def test_jobs_with_mount_namespaces_of_their_own(private_cluster: Cluster, private_bundle: str) -> None:
    """One is preempted, and goes on, with all that its containers and their helper leave there."""
    said = srun(private_cluster, f"readlink /proc/self/ns/mnt; findmnt -no FSTYPE {HERE}; ls -A {HERE}")
    assert said.splitlines()[1:] == ["tmpfs"]
    assert said.splitlines()[0] != private_cluster.exec("n1", ["readlink", "/proc/self/ns/mnt"]).stdout.strip()
    work = Work(ticks=40)
    job = jobs.step(private_cluster, private_bundle, "private", work, *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(4)
        high = job.displace()
        wait_for(lambda: job.state() == "PENDING", 60, "its requeue")
        private_cluster.exec("ctl", ["scancel", high])
        job.wait_restart()
        assert job.wait_end() == "COMPLETED"
        assert any(event.startswith("restored job") for event in job.events())
        assert ledger_failures(job.ledger(), job.output(), work.ticks, work.tick) == []


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_a_file_in_the_jobs_own_directory(private_cluster: Cluster, private_bundle: str, place: str) -> None:
    """It is gone when the job is requeued, so no checkpoint is taken while it is open; the job runs on."""
    file = private_cluster.home / private_bundle.removeprefix("/home/") / "config.json"
    spec = json.loads(file.read_text())
    mounts = [mount for mount in spec["mounts"] if mount["destination"] != "/node"]
    mounts.append({"destination": "/node", "type": "none", "source": place, "options": ["rbind", "rw"]})
    file.write_text(json.dumps(spec | {"mounts": mounts}))
    script = "exec 3>/node/file; exec {command}"
    options = f"--container={private_bundle}", *jobs.OPTIONS
    job = jobs.submit(private_cluster, "open", script, Work(ticks=60), *options)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        done = private_cluster.exec("n1", ["oci-criu-shim", "job", "checkpoint", "--here", job.number], check=False)
        assert done.returncode == 1
        assert f"has /node/file open, in the node's {place}, which is this job's alone" in done.stdout
        assert job.state() == "RUNNING"
        private_cluster.exec("ctl", ["scancel", job.number])


@pytest.mark.parametrize("opens", [False, True])
def test_a_task_without_a_container(private_cluster: Cluster, private_bundle: str, opens: bool) -> None:
    """Its /tmp is the one that Slurm has made for the job; a file in there is gone when the job is requeued."""
    script = f"{'exec 3>/tmp/file; ' if opens else ''}exec {{command}}"
    job = jobs.submit(private_cluster, f"bare-{opens}", script, Work(ticks=30), *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        if opens:
            done = private_cluster.exec("n1", ["oci-criu-shim", "job", "checkpoint", "--here", job.number], check=False)
            assert done.returncode == 1
            assert "has /tmp/file open, in the node's /tmp, which is this job's alone" in done.stdout
            private_cluster.exec("ctl", ["scancel", job.number])
            return
        high = job.displace()
        wait_for(lambda: job.state() == "PENDING", 60, "its requeue")
        private_cluster.exec("ctl", ["scancel", high])
        job.wait_restart()
        assert job.wait_end() == "COMPLETED"
        assert ledger_failures(job.ledger(), job.output(), job.work.ticks, job.work.tick) == []


def restart_slurmd(cluster: Cluster, *inside: str) -> None:
    start = f"setsid {' '.join(inside)} /usr/sbin/slurmd -D >/dev/null 2>&1 &"
    script = f"kill $(cat /run/slurmd.pid); while pidof slurmd; do sleep 0.1; done; {start}"
    cluster.exec("n1", ["sh", "-c", script], "root")
    argv = ["srun", "--nodelist=n1", "true"]
    wait_for(lambda: cluster.exec("ctl", argv, check=False).returncode == 0, 60, "slurmd")


def test_a_slurmd_with_a_mount_namespace_of_its_own(shim_cluster: Cluster, shim_bundle: str) -> None:
    restart_slurmd(shim_cluster, "unshare", "--mount", "--propagation=slave")
    try:
        script = f"findmnt -no FSTYPE {HERE}; srun --overlap --container={shim_bundle} echo hello"
        assert srun(shim_cluster, script).split() == ["tmpfs", "hello"]
        leftovers.wait_idle(shim_cluster)
        assert "oci-criu-shim" not in shim_cluster.exec("n1", ["ls", "/run"]).stdout
    finally:
        restart_slurmd(shim_cluster)
