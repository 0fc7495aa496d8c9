"""Tests that a dump is within its job's limits and ends with the job."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting
from tests.slurm.test_cancel import store

CONSTRAINED = tuple(f"Constrain{what}=yes" for what in ("Cores", "Devices", "RAMSpace"))
LIMITED = {"freezer", "memory", "devices", "cpuset"}
"""The hierarchies of version 1 in which a job has a group then."""
PROGRAMS = {"python3", "criu", "tar", "gzip"}
SCRIPT = "head -c 16M /dev/urandom >/dev/shm/kept; exec {command}"
"""What is in a tmpfs is packed by tar and gzip, for long enough that they are seen."""
LONG = Work(ticks=120)
LARGE = Work(ticks=120, mib=256)
# Leave too little room for a dump in a job's memory, given all groups of the job, but enough for asking for one.
RESTRICT = """
for group; do
    cd "$group"
    if [ -e memory.limit_in_bytes ]; then limit=memory.limit_in_bytes used=memory.usage_in_bytes
    elif [ -e memory.max ]; then limit=memory.max used=memory.current
    else continue; fi
    echo $(($(cat $used) + (12 << 20))) >$limit
done
"""
ALLOW = """
for group; do
    for limit in "$group/memory.limit_in_bytes" "$group/memory.max"; do
        [ ! -e "$limit" ] || echo 1G >"$limit"
    done
done
"""


@pytest.fixture(scope="module")
def bound_cluster() -> Iterator[Cluster]:
    """A node on which jobs are held to what they have asked for."""
    lines = ("SelectTypeParameters=CR_CPU_Memory", "DefMemPerNode=2000")
    with Cluster(f"{NAME}-bound", nodes=1, kill_wait=3, slurm_conf=lines, cgroup_conf=CONSTRAINED) as running:
        running.exec("ctl", ["srun", "true"])  # the first job has Slurm make groups that stay
        yield running


@pytest.fixture(scope="module")
def bound_bundle(bound_cluster: Cluster) -> str:
    return jobs.prepare(bound_cluster)


@contextmanager
def started(cluster: Cluster, bundle: str, name: str, work: Work = LONG) -> Iterator[Job]:
    """A job that is at work, with a file in a tmpfs; cancelled at the end."""
    job = jobs.submit(cluster, name, SCRIPT, work, f"--container={bundle}", *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        yield job
    cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()


def checkpoint(job: Job, node: str = "n1") -> str:
    """Take one; what is said."""
    argv = ["oci-criu-shim", "job", "checkpoint", "--here", job.number]
    done = job.cluster.exec(node, argv, check=False)
    return done.stdout + done.stderr


def group_name(job: Job, node: str = "n1") -> str:
    """The last part of the path of its groups: with version 2 of groups, Slurm 26.05 has other names than job_N."""
    script = 'cat "/proc/$(pgrep -o -f "slurmstepd: .$1[.]")/cgroup"'
    lines = job.cluster.exec(node, ["sh", "-c", script, "group", job.number], "root").stdout
    names: set[str] = set(re.findall(r"/(job_\d+$|\w+(?=/step_))", lines, re.MULTILINE))
    (name,) = names
    return name


def groups(cluster: Cluster, node: str, name: str) -> list[str]:
    """The directories of this name, in each hierarchy."""
    return cluster.exec(node, ["find", "/sys/fs/cgroup", "-name", name], "root").stdout.split()


# Slurm 24.11's extern step can't remove its own groups while its X11 thread has the user's effective id.
LEFT = """
find /sys/fs/cgroup -path "*/$1/*" -type d ! -path "*/$1/step_extern"
find /sys/fs/cgroup -path "*/$1/*" -name cgroup.procs -exec cat {} +
"""


def left(cluster: Cluster, name: str) -> str:
    """Return what keeps Slurm from removing a job's groups of n1: other groups and processes in them."""
    return cluster.exec("n1", ["sh", "-c", LEFT, "left", name], "root", check=False).stdout


def placed(job: Job, node: str) -> dict[tuple[str, str], set[str]]:
    """{(program, controllers): paths} of all that takes part in a checkpoint of it, as placed.py prints it."""
    with jobs.program(job.cluster, node, "placed", job.number) as watching:
        assert "checkpointed" in checkpoint(job, node)
        lines = watching.communicate()[0].splitlines()
    found = defaultdict(set)
    for program, what, where in (line.split(" ") for line in lines):
        found[program, what].add(where)
    return dict(found)


def check_placed(job: Job, node: str) -> set[str]:
    """Check that all that takes part in a checkpoint is in the job's groups but not among a step's processes, and goes
    first if memory is short; return the controllers of those groups."""
    found, name = placed(job, node), group_name(job, node)
    assert {program for program, _ in found} >= PROGRAMS
    places = {
        group.split("/")[4] for group in groups(job.cluster, node, name)
    }  # below /sys/fs/cgroup: of version 1, a controller
    limited = {controllers for _, controllers in found} & places or {""}
    for (program, what), values in found.items():
        if what in limited:
            assert all(re.search(rf"/{name}(/step_\w+/slurm)?$", path) for path in values), (program, values)
        assert what != "oom_score_adj" or values == {"1000"}, (program, values)
    return limited


def test_the_jobs_groups(bound_cluster: Cluster, bound_bundle: str) -> None:
    with started(bound_cluster, bound_bundle, "placed") as job:
        assert check_placed(job, "n1") == LIMITED


def test_the_jobs_memory(bound_cluster: Cluster, bound_bundle: str) -> None:
    """If there is too little for a dump, the job's program goes on."""
    with started(bound_cluster, bound_bundle, "memory") as job:
        directories = groups(job.cluster, "n1", group_name(job))
        job.cluster.exec("n1", ["sh", "-ec", RESTRICT, "restrict", *directories], "root")
        said = checkpoint(job)
        assert "could not be checkpointed and runs on" in said and "for want of the job's memory" in said
        job.wait_ticks(job.ticks() + 2)
        job.cluster.exec("n1", ["sh", "-ec", ALLOW, "allow", *directories], "root")
        assert "checkpointed" in checkpoint(job)


# A job that fills its run directory: how much of its memory is used before and after, in bytes.
FILL = """
here=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
if [ "$here" ]; then used=/sys/fs/cgroup/memory$here/memory.usage_in_bytes
else used=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.current; fi
cat $used; head -c 64M /dev/zero >/run/oci-criu-shim/$SLURM_JOB_ID/file; cat $used
"""


def test_what_its_run_directory_takes(bound_cluster: Cluster) -> None:
    before, after = map(int, bound_cluster.exec("ctl", ["srun", "sh", "-ec", FILL]).stdout.split())
    assert after - before >= 60 << 20  # of 64: the rest of the job may have less meanwhile


def hold(job: Job) -> None:
    """Ask for a dump of it, and stop CRIU in the middle."""
    ask = ["sh", "-c", f"oci-criu-shim job checkpoint --here {job.number} >/dev/null 2>&1 &"]
    with jobs.held(job, "n1", store(job)):
        job.cluster.exec("n1", ask)


def pids(cluster: Cluster, *words: str) -> list[str]:
    return cluster.exec("n1", ["pgrep", *words], "root", check=False).stdout.split()


@pytest.mark.parametrize("helper", ["at-work", "killed"])
def test_nothing_outlives_the_job(bound_cluster: Cluster, bound_bundle: str, helper: str) -> None:
    with started(bound_cluster, bound_bundle, f"end-{helper}", LARGE) as job:
        name = group_name(job)
        hold(job)
        if helper == "killed":
            bound_cluster.exec("n1", ["pkill", "-KILL", "-f", f"/helper {job.number} "], "root")
            wait_for(lambda: not pids(bound_cluster, "-f", f"/worker.py {job.number} "), 10, "the worker's end")
            wait_for(lambda: not pids(bound_cluster, "-x", "criu"), 10, "CRIU's end")
        bound_cluster.exec("ctl", ["scancel", job.number])
        job.wait_end()
        wait_for(lambda: not pids(bound_cluster, "-u", "alice"), 20, "the end of all that is the user's")
        wait_for(lambda: not left(bound_cluster, name), 20, "the end of all that is in the job's groups")


def test_nothing_outlives_a_worker(bound_cluster: Cluster, bound_bundle: str) -> None:
    """Which its user ends."""
    with started(bound_cluster, bound_bundle, "killed", LARGE) as job:
        hold(job)
        bound_cluster.exec("n1", ["pkill", "-KILL", "-f", f"/worker.py {job.number} "])
        wait_for(lambda: not pids(bound_cluster, "-x", "criu"), 10, "CRIU's end")
