"""Checkpoints before the time limit."""

from __future__ import annotations

import re

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting
from tests.harness.verdict import ledger_failures

DIR = jobs.OPTIONS[1:]


def test_longer_than_the_time_limit(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Two containers of one job, of which the larger is due first; the limit is cut short while it runs, and at last
    extended."""
    script = "srun -n1 --overlap --container={bundle} {{command}} & sleep 1; "
    script += "srun -n1 --overlap --container={bundle} sleep 70 & wait $!; wait"
    options = ("--checkpoint=timeout", "--time=5", "-c2", *DIR)
    work = Work(ticks=460, mib=64)  # 230 seconds
    job = jobs.submit(shim_cluster, "limit", script.format(bundle=shim_bundle), work, *options)
    with quoting(job):
        job.wait_running()
        limit(job, 1)
        wait_for(lambda: job.record()["restart_cnt"] == 3, 300, "its third requeue at the time limit")
        job.wait_running()
        job.wait_ticks(job.ticks() + 14)  # by now the old limit is known
        limit(job, 10)
        assert work.ticks - job.ticks() > 120, "it is not about to outlast the old one"
        assert job.wait_end(240) == "COMPLETED"
        assert job.record()["restart_cnt"] == 3
        assert [line.split()[0] for line in job.events()].count("requeueing") == 3
        assert len(re.findall(r"restored job \d+ step", job.output())) == 4  # both, the first time
        assert ledger_failures(job.ledger(), job.output(), work.ticks, work.tick) == []


def limit(job: Job, minutes: int) -> None:
    job.cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", f"TimeLimit={minutes}"], "root")


def test_a_job_that_may_not_be_requeued(shim_cluster: Cluster, shim_bundle: str) -> None:
    options = ("--checkpoint=timeout", "--time=1", "--no-requeue", *DIR)
    job = jobs.batch(shim_cluster, shim_bundle, "stays", Work(ticks=400, tick=0.25), *options)
    with quoting(job):
        job.wait_running()
        wait_for(lambda: "submit it with --requeue" in job.output(), 90, "why it has no checkpoint")
        ticks = job.ticks()
        wait_for(lambda: job.ticks() > ticks, 10, "it to run on")
    shim_cluster.exec("ctl", ["scancel", job.number])


def test_a_time_limit_that_is_too_short(shim_cluster: Cluster, shim_bundle: str) -> None:
    """The site's margin leaves nothing of it."""
    with jobs.settings(shim_cluster, 'margin = "2m"\nmax-restarts = 1\n'):
        job = jobs.batch(shim_cluster, shim_bundle, "short", Work(ticks=200), "--checkpoint=timeout", "--time=1", *DIR)
        with quoting(job):
            assert job.wait_end() == "FAILED"
            assert "was tried 1 times from checkpoint 2 and got no further (max-restarts)" in job.events()[-1]
            assert sum("hardly ran before its time limit was near" in event for event in job.events()) == 2
