"""Tests what guards a dump from the user whose container it is, so that nobody gains a right by a dump."""

from __future__ import annotations

import json
import subprocess

import pytest

from oci_criu_shim.slurm.tasks import BATCH_STEP
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, quoting

FILLED = "head -c 40m /dev/zero >/dev/shm/filled; exec {command}"  # a tmpfs that takes a while to be packed
PRELOAD = "/usr/lib/oci-criu-shim/criu_preload.so"


def init_of(job: Job, node: str) -> str:
    """The pid of its container's init, as its user is told."""
    argv = ["oci-criu-shim", f"--root=/run/oci-criu-shim/{job.number}", "list", "--format=json"]
    (state,) = json.loads(job.cluster.exec(node, argv).stdout)
    return str(state["pid"])


def submit(cluster: Cluster, bundle: str, name: str) -> Job:
    return jobs.submit(cluster, name, FILLED, jobs.Work(ticks=60), f"--container={bundle}", *jobs.OPTIONS)


def checkpoint(job: Job, node: str) -> subprocess.CompletedProcess[str]:
    return job.cluster.exec(node, ["oci-criu-shim", "job", "checkpoint", "--here", job.number], check=False)


def test_what_dumps_a_container_is_not_its_users_to_trace(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = submit(shim_cluster, shim_bundle, "traced")
    with quoting(job):
        node = job.wait_running()
        job.wait_ticks(2)
        with jobs.program(shim_cluster, node, "tracer", init_of(job, node), user="alice") as tracer:
            done = checkpoint(job, node)
            said = tracer.communicate()[0].split("\n")
        shim_cluster.exec("ctl", ["scancel", job.number])
        assert done.returncode == 0, done.stderr
        assert {"saw criu", "saw tar"} <= set(said)
        assert "traced criu" not in said


# As alice, in a directory of hers: links in the place of CRIU's images, and of a parent of theirs.
LINKS = """
mkdir links && cd links && echo precious >../precious
for name in {name}; do ln -s ../precious $name; done
"""


@pytest.mark.parametrize("name", ["pages-1.img", "parent", "irmap-cache"])
def test_nothing_leads_criu_elsewhere(shim_cluster: Cluster, shim_bundle: str, name: str) -> None:
    """Which is there when the dump begins. (What is put there later, it does not follow: test_criu_preload.py.)"""
    job = jobs.batch(shim_cluster, shim_bundle, "linked", jobs.Work(ticks=60), *jobs.OPTIONS)
    with quoting(job):
        node = job.wait_running()
        job.wait_ticks(2)
        shim_cluster.exec(node, ["sh", "-ec", LINKS.format(name=name)])
        helper = f"/run/oci-criu-shim/{job.number}/helper.{BATCH_STEP}.sock"
        ask = ["python3", "-I", "/src/tests/harness/programs/asking.py", helper]
        refused = shim_cluster.exec(node, [*ask, init_of(job, node), "/home/alice/links"]).stdout
        shim_cluster.exec(node, ["rm", "-r", "links/" + name])
        aborted = shim_cluster.exec(node, [*ask, init_of(job, node), "/home/alice/links"]).stdout
        precious = shim_cluster.exec(node, ["cat", "precious"]).stdout
        shim_cluster.exec(node, ["rm", "-r", "links", "precious"])
        assert refused == f"the images' directory has {name!r}, which would lead CRIU elsewhere\n"
        assert "CRIU could not dump the container" in aborted  # it was told to let it run on
        assert precious == "precious\n"
        job.wait_ticks(job.ticks() + 2)
        shim_cluster.exec("ctl", ["scancel", job.number])


def test_no_dump_without_what_guards_criu(shim_cluster: Cluster, shim_bundle: str) -> None:
    """If it is not there, ld.so only warns."""
    job = submit(shim_cluster, shim_bundle, "unguarded")
    with quoting(job):
        node = job.wait_running()
        job.wait_ticks(2)
        shim_cluster.exec(node, ["mv", PRELOAD, f"{PRELOAD}.away"], "root")
        try:
            done = checkpoint(job, node)
        finally:
            shim_cluster.exec(node, ["mv", f"{PRELOAD}.away", PRELOAD], "root")
        assert done.returncode
        refused = f"CRIU runs without {PRELOAD}"
        wait_for(lambda: any(refused in event for event in job.events()), 10, "the reason")
        job.wait_ticks(job.ticks() + 2)
        assert checkpoint(job, node).returncode == 0
        shim_cluster.exec("ctl", ["scancel", job.number])
