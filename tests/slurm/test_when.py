"""Checkpoints at intervals, at a signal, on request: each on a job that goes on unaware."""

from __future__ import annotations

import json

import pytest

from oci_criu_shim.host import linux
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting
from tests.slurm.test_preemption import KINDS, Submit

DIR = jobs.OPTIONS[1:]


def taken(job: Job, reason: str) -> int:
    return sum(line.startswith("checkpointed ") and f"({reason}) to " in line for line in job.events())


def kept(job: Job) -> list[str]:
    """The numbers of its only task's checkpoints."""
    return [path.name for path in job.checkpoints().parent.glob("*.0/[0-9]*")]


def judge(job: Job) -> None:
    assert job.wait_end() == "COMPLETED"
    assert not job.failures()


@KINDS
def test_interval(shim_cluster: Cluster, shim_bundle: str, kind: Submit) -> None:
    options = ("--checkpoint=preempt,interval:2s", "--checkpoint-keep=1", *DIR)
    job = kind(shim_cluster, shim_bundle, "interval", Work(ticks=40), *options)
    with quoting(job):
        job.wait_running()
        wait_for(lambda: taken(job, "interval") == 2, 30, "two checkpoints")
        wait_for(lambda: len(kept(job)) == 1 and kept(job) != ["1"], 10, "all but the newest to be removed")
        job.preempt()
        judge(job)


def test_signal_and_request(shim_cluster: Cluster, shim_bundle: str) -> None:
    options = ("--checkpoint", "--checkpoint-keep=5", *DIR)
    with jobs.settings(shim_cluster, 'checkpoint = "signal:USR1"\n'):
        job = jobs.batch(shim_cluster, shim_bundle, "signal", Work(ticks=60), *options)
        job.wait_running()
        job.wait_ticks(2)
    with quoting(job):
        shim_cluster.exec("ctl", ["scancel", "--batch", "--signal=USR1", job.number])
        wait_for(lambda: taken(job, "signal") == 1, 30, "a checkpoint at the signal")
        users = ["env", "SRUN_CONTAINER=/nowhere", "SLURM_CLUSTERS=nowhere"]  # for the user's own calls
        done = shim_cluster.exec("ctl", [*users, "oci-criu-shim", "job", "checkpoint", "--json", job.number])
        (said,) = json.loads(done.stdout)
        assert (said["job"], said["node"], said["taken"]) == (int(job.number), job.nodes[0], True)
        assert said["checkpoint"]["path"].endswith(f"/{job.number}/batch.0/{said['checkpoint']['seq']}")
        assert "(request)" in said["said"]
        done = shim_cluster.exec(job.nodes[0], ["oci-criu-shim", "job", "checkpoint", "--here", job.number])
        assert "it runs on" in done.stdout
        for who, words, wanted in (
            ("bob", ["--here", job.number], f"job {job.number} belongs to somebody else"),
            ("alice", ["--here", "4242"], "job 4242 has no container on"),
            ("alice", ["x"], "a JOBID is a number such as 12"),
        ):
            refused = shim_cluster.exec(job.nodes[0], ["oci-criu-shim", "job", "checkpoint", *words], who, check=False)
            assert refused.returncode and wanted in refused.stderr
        judge(job)
    ended = shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number], check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1) and "does not run: it is COMPLETED" in ended.stderr


SITE = """
mtbf = "4s"
[partitions.low]
checkpoint = "preempt,interval:auto,signal:USR1"
"""
TWO = """
run() {{ srun --overlap --container={bundle} "$@"; }}
run --checkpoint=none sh -c "touch /shared/two.out; exec sleep 90" &
until [ -e /shared/two.out ]; do sleep 0.1; done
run {command}
kill $!
"""


def test_as_the_partition_has_it(shim_cluster: Cluster, shim_bundle: str) -> None:
    """But for one step, which is left out."""
    (shim_cluster.shared / "two.out").unlink(missing_ok=True)
    with jobs.settings(shim_cluster, SITE):
        script = TWO.replace("{bundle}", shim_bundle)
        job = jobs.submit(shim_cluster, "two", script, Work(ticks=60), "--checkpoint", *DIR)
        job.wait_running()
        job.wait_ticks(2)
    with quoting(job):
        wait_for(lambda: taken(job, "interval") >= 2, 30, "two checkpoints")
        shim_cluster.exec("ctl", ["scancel", "--signal=USR1", f"{job.number}.1"])
        wait_for(lambda: taken(job, "signal") == 1, 30, "a checkpoint at the signal")
        assert {path.name for path in job.checkpoints().parent.glob("*.*")} == {"1.0"}
        judge(job)
        assert sum("is a full one" in event for event in job.events()) == (not linux.tracks_writes())
        assert not [event for event in job.events() if not event.startswith(("checkpointed", "this kernel"))]


def test_request_where_one_node_has_no_container(shim_cluster: Cluster, shim_bundle: str) -> None:
    script = f"srun -N1 -n1 --container={shim_bundle} {{command}}"
    options = ("--checkpoint=signal:USR1", "-N2", "-n2", *DIR)
    job = jobs.submit(shim_cluster, "one", script, Work(ticks=60), *options)
    with quoting(job):
        wait_for(lambda: job.state() == "RUNNING", 60, "it to run")
        job.wait_ticks(2)
        done = shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", "--json", job.number])
        said = sorted(json.loads(done.stdout), key=lambda one: bool(one["taken"]))
        assert [(one["taken"], one["container"] is None) for one in said] == [(False, True), (True, False)]
        assert {one["node"] for one in said} == {"n1", "n2"}
    shim_cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()


@pytest.mark.parametrize("option", ["--checkpoint=soon", "--checkpoint-interval=5y", "--checkpoint-keep=0"])
def test_bad_values_are_refused_at_submission(shim_cluster: Cluster, option: str) -> None:
    done = shim_cluster.exec("ctl", ["sbatch", "--checkpoint", option, "--wrap", "true"], check=False)
    assert done.returncode and option in done.stderr
    assert not shim_cluster.exec("ctl", ["squeue", "--noheader"]).stdout
