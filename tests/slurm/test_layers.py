"""Tests what a checkpoint brings along besides the processes: the batch script, and changes to the root file system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work
from tests.slurm.test_ladder import displaced

WORK = Work(ticks=40)
ROOT = "/var/tmp/rootfs"  # the nodes' own
DATA = """
set -e
cp -a $0/rootfs $1
mkdir -p $1/data/directory/inner $1/data/gone $1/data/was-directory
cd $1/data
names="changed mode named deleted directory/inner/file gone/inner was-file was-directory/inner"
for name in $names; do echo $name >$name; done
chown -R alice: .
"""


def wrapped(cluster: Cluster, first: Job, *options: str) -> Job:
    """A job with a script that has nothing to do with the first one's."""
    argv = ["sbatch", "--parsable", "-p", "low", "-n1", "--output=/home/alice/%j.out", *options, "--wrap=echo wrapped"]
    return Job(cluster, cluster.exec("ctl", argv).stdout.strip(), first.work, first.ledger_path)


def test_another_script(shim_cluster: Cluster, shim_bundle: str) -> None:
    """A shell reads the rest of its script in a job with another one, and after the preemption of that.

    They have a root file system in common, with others, who keep what they have written there since.
    """
    theirs = shim_cluster.home.parent / shim_bundle[1:] / "rootfs/var/theirs"
    script = "echo first >/var/theirs; {command}\n" + f"# {'.' * 100}\n" * 100 + "echo read to its end"
    options = (f"--container={shim_bundle}", *jobs.OPTIONS)
    first = jobs.submit(shim_cluster, "script", script, WORK, *options)
    high = displaced(first)
    shim_cluster.exec("ctl", ["scontrol", "hold", first.number])
    shim_cluster.exec("ctl", ["scancel", high])
    theirs.write_text("theirs")
    second = wrapped(shim_cluster, first, f"--restart-dir={first.number}", *options)
    with jobs.quoting(second):
        second.wait_running()
        second.wait_ticks(first.ticks() + 3)
        second.preempt()
        assert second.wait_end() == "COMPLETED"
        said = [line for line in second.output().splitlines() if line in ("end sum-ok", "read to its end", "wrapped")]
        assert said == ["end sum-ok", "read to its end"]
    assert theirs.read_text() == "theirs"
    shim_cluster.exec("ctl", ["scancel", first.number])


@contextmanager
def on_each_node(cluster: Cluster, bundle: str) -> Iterator[str]:
    """A bundle whose root file system is a copy on each node, with some files in /data; its path."""
    spec = json.loads((cluster.home.parent / bundle[1:] / "config.json").read_text())
    spec["root"]["path"] = ROOT
    cluster.exec("n1", ["mkdir", "/home/alice/local"])
    cluster.exec("n1", ["tee", "/home/alice/local/config.json"], input=json.dumps(spec))
    for node in cluster.compute_nodes():
        cluster.exec(node, ["sh", "-c", DATA, bundle, ROOT], "root")
    try:
        yield "/home/alice/local"
    finally:
        for node in cluster.compute_nodes():
            cluster.exec(node, ["rm", "-r", ROOT], "root")
        cluster.exec("n1", ["rm", "-r", "/home/alice/local"])


def test_changes_go_along(shim_cluster: Cluster, shim_bundle: str) -> None:
    """From one node to another and back, if each has the root file system for itself."""
    with on_each_node(shim_cluster, shim_bundle) as bundle:
        options = (f"--container={bundle}", *jobs.OPTIONS)
        script = "exec python3 /shared/files.py /shared/files.ledger 40 0.5"
        job = jobs.submit(shim_cluster, "files", script, WORK, *options)
        with jobs.quoting(job):
            job.wait_running()
            job.wait_ticks(3)
            job.preempt()
            wait_for(lambda: any(event.startswith("restored") for event in job.events()), 60, "what it had changed")
            shim_cluster.exec(job.nodes[0], ["sh", "-c", f"cd {ROOT}/data; echo another | tee both >others"])
            job.preempt()
            assert job.wait_end() == "COMPLETED"
            assert "same" in job.output().splitlines()
            theirs = shim_cluster.exec(job.nodes[0], ["sh", "-c", f"cd {ROOT}/data; cat both others"]).stdout
            assert theirs == "another\nanother\n"
