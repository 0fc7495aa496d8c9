"""What a checkpoint brings along besides the processes: the batch script."""

from __future__ import annotations

from tests import jobs
from tests.cluster import Cluster
from tests.jobs import Job, Work
from tests.slurm.test_ladder import displaced

WORK = Work(ticks=16)


def wrapped(cluster: Cluster, first: Job, *options: str) -> Job:
    """A job with a script that has nothing to do with the first one's."""
    argv = ["sbatch", "--parsable", "-p", "low", "-n1", "--output=/home/alice/%j.out", *options, "--wrap=echo wrapped"]
    return Job(cluster, cluster.exec("ctl", argv).stdout.strip(), first.work, first.ledger_path)


def test_another_script(shim_cluster: Cluster, shim_bundle: str) -> None:
    """A shell reads the rest of its script in a job with another one, and after the preemption of that."""
    script = "{command}\n" + f"# {'.' * 100}\n" * 100 + "echo read to its end"
    options = (f"--container={shim_bundle}", *jobs.OPTIONS)
    first = jobs.submit(shim_cluster, "script", script, WORK, *options)
    high = displaced(first)
    shim_cluster.exec("ctl", ["scontrol", "hold", first.number])
    shim_cluster.exec("ctl", ["scancel", high])
    second = wrapped(shim_cluster, first, f"--restart-dir={first.number}", *options)
    with jobs.quoting(second):
        second.wait_running()
        second.wait_ticks(first.ticks() + 3)
        second.preempt()
        assert second.wait_end() == "COMPLETED"
        said = [line for line in second.output().splitlines() if line in ("end sum-ok", "read to its end", "wrapped")]
        assert said == ["end sum-ok", "read to its end"]
    shim_cluster.exec("ctl", ["scancel", first.number])
