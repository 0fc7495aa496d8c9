"""Checkpoints at intervals, before the time limit, at a signal, on request: each on a job that goes on unaware."""

from __future__ import annotations

import json
import re

import pytest

from tests import jobs
from tests.cluster import Cluster, wait_for
from tests.jobs import Job, Work, quoting
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
    job = kind(shim_cluster, shim_bundle, "interval", Work(ticks=24), *options)
    with quoting(job):
        job.wait_running()
        wait_for(lambda: taken(job, "interval") == 2, 30, "two checkpoints")
        wait_for(lambda: len(kept(job)) == 1 and kept(job) != ["1"], 10, "all but the newest to be removed")
        job.preempt()
        judge(job)


def test_signal_and_request(shim_cluster: Cluster, shim_bundle: str) -> None:
    options = ("--checkpoint=signal:USR1", "--checkpoint-keep=5", *DIR)
    job = jobs.batch(shim_cluster, shim_bundle, "signal", Work(ticks=20), *options)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        shim_cluster.exec("ctl", ["scancel", "--batch", "--signal=USR1", job.number])
        wait_for(lambda: taken(job, "signal") == 1, 30, "a checkpoint at the signal")
        users = ["env", "SRUN_CONTAINER=/nowhere", "SLURM_CLUSTERS=nowhere"]  # for his own calls
        done = shim_cluster.exec("ctl", [*users, "oci-criu-shim", "job", "checkpoint", "--json", job.number])
        said = json.loads(done.stdout)
        assert (said["job"], said["node"], said["taken"]) == (int(job.number), job.nodes[0], True)
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


def test_request_where_one_node_has_no_container(shim_cluster: Cluster, shim_bundle: str) -> None:
    script = f"srun -N1 -n1 --container={shim_bundle} {{command}}"
    options = ("--checkpoint=signal:USR1", "-N2", "-n2", *DIR)
    job = jobs.submit(shim_cluster, "one", script, Work(ticks=60), *options)
    with quoting(job):
        wait_for(lambda: job.state() == "RUNNING", 60, "it to run")
        job.wait_ticks(2)
        done = shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", "--json", job.number])
        said = sorted(map(json.loads, done.stdout.splitlines()), key=lambda one: bool(one["taken"]))
        assert [(one["taken"], one["container"] is None) for one in said] == [(False, True), (True, False)]
        assert {one["node"] for one in said} == {"n1", "n2"}
    shim_cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()


def test_longer_than_the_time_limit(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Two containers of one job, of which the larger is due first; the limit is changed while it runs."""
    script = "srun -n1 --overlap --container={bundle} {{command}} & "
    script += "srun -n1 --overlap --container={bundle} sleep 70 & wait $!; wait"
    options = ("--checkpoint=timeout", "--time=5", "-c2", *DIR)
    work = Work(ticks=140, mib=64)
    job = jobs.submit(shim_cluster, "limit", script.format(bundle=shim_bundle), work, *options)
    with quoting(job):
        job.wait_running()
        shim_cluster.exec("ctl", ["scontrol", "update", f"jobid={job.number}", "timelimit=1"], "root")
        wait_for(lambda: job.record()["restart_cnt"] == 1, 120, "its requeue at the time limit")
        assert job.wait_end(240) == "COMPLETED"
        restarts = job.record()["restart_cnt"]  # a busy machine may take a third run
        assert [line.split()[0] for line in job.events()].count("requeueing") == restarts
        assert len(re.findall(r"restored job \d+ step", job.output())) > restarts  # both, the first time
        assert job.ticks() == 140 and "end sum-ok" in job.output()


def test_a_job_that_may_not_be_requeued(shim_cluster: Cluster, shim_bundle: str) -> None:
    options = ("--checkpoint=timeout", "--time=1", "--no-requeue", *DIR)
    job = jobs.batch(shim_cluster, shim_bundle, "stays", Work(ticks=400, tick=0.25), *options)
    with quoting(job):
        job.wait_running()
        wait_for(lambda: "submit it with --requeue" in job.output(), 90, "why it has no checkpoint")
        ticks = job.ticks()
        wait_for(lambda: job.ticks() > ticks, 10, "it to run on")
    shim_cluster.exec("ctl", ["scancel", job.number])


@pytest.mark.parametrize("option", ["--checkpoint=soon", "--checkpoint-interval=5", "--checkpoint-keep=0"])
def test_bad_values_are_refused_at_submission(shim_cluster: Cluster, option: str) -> None:
    done = shim_cluster.exec("ctl", ["sbatch", "--checkpoint", option, "--wrap", "true"], check=False)
    assert done.returncode and option in done.stderr
    assert not shim_cluster.exec("ctl", ["squeue", "--noheader"]).stdout


def test_a_time_limit_that_is_too_short(shim_cluster: Cluster, shim_bundle: str) -> None:
    """The site's margin leaves nothing of it."""
    config = "/etc/oci-criu-shim/config.toml"
    for node in shim_cluster.compute_nodes():
        shim_cluster.exec(node, ["tee", config], "root", input='margin = "2m"\nmax-restarts = 1\n')
    try:
        job = jobs.batch(shim_cluster, shim_bundle, "short", Work(ticks=200), "--checkpoint=timeout", "--time=1", *DIR)
        with quoting(job):
            assert job.wait_end() == "FAILED"
            assert "was tried 1 times from checkpoint 2 and got no further (max-restarts)" in job.events()[-1]
            assert sum("hardly ran before its time limit was near" in event for event in job.events()) == 2
    finally:
        for node in shim_cluster.compute_nodes():
            shim_cluster.exec(node, ["tee", config], "root", input="")
