"""What a dump and a restore keep, hold, and do when they fail, on a live cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests import jobs
from tests.cluster import Cluster, wait_for
from tests.cluster.settings import REPOSITORY

PROGRAMS = REPOSITORY / "tests/programs"
# CAP_SETGID, CAP_SYS_CHROOT and CAP_SYS_ADMIN: what a dump is lent.
LENT = f"{1 << 6 | 1 << 18 | 1 << 21:016x}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes whose GraceTime ends soon."""
    with Cluster("dump", grace_time=10, kill_wait=5, requeue_delay=120, slurm_conf=("MessageTimeout=2",)) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    """alice's bundle, with all programs in /shared and a directory for checkpoints."""
    path = jobs.prepare(cluster)
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, cluster.shared)
    cluster.exec("n1", ["mkdir", "-p", jobs.CHECKPOINTS])
    return path


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """No job, and nothing in the run directories, after each test."""
    yield
    cluster.exec("ctl", ["scancel", "--user=alice"], check=False)
    wait_for(lambda: not cluster.exec("ctl", ["squeue", "--noheader"]).stdout, 60, "no job")
    wait_for(lambda: not jobs.leftovers(cluster), 10, f"empty run directories: {jobs.leftovers(cluster)}")


def preempt_and_finish(job: jobs.Job) -> str:
    """Preempt a job that is at work, wait for its end; its output."""
    job.wait_running()
    wait_for(lambda: "tick 3" in job.output(), 30, "tick 3")
    high = job.displace()
    wait_for(lambda: any(e.startswith("restored") for e in job.events()), 60, "the restore")
    job.cluster.exec("ctl", ["scancel", high])
    assert job.wait_end() == "COMPLETED", job.quoted()
    return job.output()


def test_keeps_threads_processes_pipes_sockets_memory_and_deleted_files(cluster: Cluster, bundle: str) -> None:
    script = "exec python3 /shared/features.py 20 0.5"
    job = jobs.submit(cluster, "features", script, jobs.Work(), f"--container={bundle}", *jobs.OPTIONS)
    output = preempt_and_finish(job)
    ticks = [line for line in output.splitlines() if line.startswith("tick")]
    assert ticks == [f"tick {n} ok" for n in range(1, 21)], job.quoted()


def test_only_a_dump_holds_capabilities_and_just_the_lent_ones(cluster: Cluster, bundle: str) -> None:
    watch = ["python3", "/shared/capabilities.py", "1000", "20"]
    with (
        subprocess.Popen(cluster.argv("n1", watch, "root"), stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(cluster.argv("n2", watch, "root"), stdout=subprocess.PIPE, text=True) as second,
    ):
        script = "exec python3 /shared/features.py 20 0.5"
        job = jobs.submit(cluster, "caps", script, jobs.Work(), f"--container={bundle}", *jobs.OPTIONS)
        preempt_and_finish(job)
        dumping, restoring = (holders(watcher.communicate()[0]) for watcher in (first, second))
    assert restoring == {}
    assert set(dumping.values()) == {LENT}
    # CRIU packs the contents of each tmpfs by a shell that runs tar, and asks iptables what it can do.
    assert {"criu"} <= set(dumping) <= {"criu", "python3", "sh", "tar", "gzip", "iptables", "ip6tables"}


def holders(text: str) -> dict[str, str]:
    """{program: effective capabilities} of those that hold any.

    slurmstepd is left out: it takes a user's effective id for moments, while it is still root.
    """
    lines = [line.split() for line in text.splitlines()]
    return {name: effective for name, effective, *_ in lines if name != "slurmstepd" and int(effective, 16)}


def test_a_failed_dump_says_why_and_the_container_runs_on(cluster: Cluster, bundle: str) -> None:
    job = jobs.batch(cluster, bundle, "full", jobs.Work(ticks=60), *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    store = f"{jobs.CHECKPOINTS}/{job.number}/batch.0"
    cluster.exec("n1", ["chmod", "500", store])
    before = job.ticks()
    high = job.displace()
    wait_for(lambda: any("could not be checkpointed and runs on" in e for e in job.events()), 30, "the reason")
    wait_for(lambda: job.ticks() > before + 4, 10, "the container to run on")
    wait_for(lambda: "PENDING" in job.state() and "COMPLETING" not in job.state(), 40, "Slurm's requeue")
    cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
    wait_for(lambda: any("was restarted, and has no checkpoint" in e for e in job.events()), 60, "the refusal")
    cluster.exec("ctl", ["scancel", high, job.number])
    cluster.exec("n1", ["chmod", "700", store])
    reasons = [e for e in job.events() if e.startswith("error: ") and "could not be checkpointed" in e]
    assert re.search(r"Permission denied", reasons[0]), job.quoted()
    assert job.ledger().splitlines()[0].startswith("tick 1 ") and job.ledger().count("tick 1 ") == 1


def test_a_cancelled_job_is_not_checkpointed(cluster: Cluster, bundle: str) -> None:
    job = jobs.batch(cluster, bundle, "cancel", jobs.Work(ticks=60), *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    cluster.exec("ctl", ["scancel", job.number])
    assert job.wait_end() == "CANCELLED"
    assert job.events() == [] or all("checkpointed" not in event for event in job.events())
    found = cluster.exec("n1", ["find", f"{jobs.CHECKPOINTS}/{job.number}", "-name", "manifest.json"]).stdout
    assert not found
