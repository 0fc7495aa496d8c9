"""Tests that a checkpoint of the platform before goes on here: another Slurm and crun, the same CRIU and kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster
from tests.harness.cluster.process import run
from tests.harness.cluster.settings import DATA, REPOSITORY
from tests.harness.cluster.suite import SUITE, VARIABLE
from tests.harness.earlier import WORK
from tests.harness.verdict import ledger_failures


@pytest.mark.skipif(not SUITE.earlier, reason="there is no suite before it")
def test_a_checkpoint_of_the_platform_before() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DATA) as name, Cluster(f"{NAME}-later", nodes=1) as cluster:
        environment = {**os.environ, VARIABLE: SUITE.earlier}
        subprocess.run(
            [sys.executable, "-B", "-m", "tests.harness.earlier", name], cwd=REPOSITORY, env=environment, check=True
        )
        run(["cp", "--archive", "--reflink=auto", f"{name}/alice", str(cluster.home)])
        run(["cp", "--archive", f"{name}/shared/.", str(cluster.shared)])
        kept = Path(jobs.CHECKPOINTS).with_name("kept")
        cluster.exec("ctl", ["mv", jobs.CHECKPOINTS, str(kept)])
        options = ("--container=/home/alice/bundle", f"--restart-dir={kept}/1", *jobs.OPTIONS)
        number = cluster.exec("ctl", ["sbatch", "--parsable", "--output=%j.out", *options, "/shared/earlier.sh"]).stdout
        job = jobs.Job(cluster, number.strip(), WORK, cluster.shared / "earlier.ledger")
        with jobs.quoting(job):
            assert job.ticks() < WORK.ticks
            assert job.wait_end() == "COMPLETED"
            assert not ledger_failures(job.ledger(), job.output(), WORK.ticks, WORK.tick)
            assert [event.split(" ")[0] for event in job.events()].count("restored") == 1
