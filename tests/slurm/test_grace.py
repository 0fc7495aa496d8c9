"""What Slurm does with jobs that are preempted again and again, by signals of their own, or for good."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.suite import SUITE
from tests.harness.jobs import Job, Work, quoting
from tests.slurm.conftest import GRACE_TIME
from tests.slurm.test_preemption import KINDS, Submit

SITE = (
    "PreemptParameters=send_user_signal",
    f"PartitionName=cut Nodes=n[1-2] PriorityTier=1 PreemptMode=CANCEL GraceTime={GRACE_TIME}",
)
ENDLESS = Work(ticks=1 << 30)
# Counts until it is told to end, with status 3.
COUNT = """i=0; until [ -e {end} ]; do i=$((i+1)); echo $i >>{ledger}; sleep 0.1; done; exit 3"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, with what Slurm has by default: MaxBatchRequeue=5. A partition's jobs are preempted for good."""
    with Cluster(f"{NAME}-grace", grace_time=60, kill_wait=3, requeue_delay=120, slurm_conf=SITE) as running:
        yield running


@pytest.fixture(scope="module")
def bundle(cluster: Cluster) -> str:
    return jobs.prepare(cluster)


def counting(cluster: Cluster, bundle: str, kind: str) -> tuple[Job, Path]:
    """A job that counts, and the file that has it end.

    Its container is the batch step, or a step of an array's task.
    """
    name = f"count-{kind}"
    end, ledger = cluster.shared / f"{name}.end", f"/shared/{name}.ledger"
    end.unlink(missing_ok=True)
    count = COUNT.format(end=f"/shared/{end.name}", ledger=ledger)
    script = count if kind == "batch" else f"srun --container={bundle} sh -c '{count}'"
    asked = f"--container={bundle}" if kind == "batch" else "--array=3"
    return jobs.submit(cluster, name, script, ENDLESS, *jobs.OPTIONS, asked), end


@pytest.mark.parametrize(("kind", "times"), [("batch", 7), ("step", 4)])
def test_preempted_more_often_than_slurm_requeues(cluster: Cluster, bundle: str, kind: str, times: int) -> None:
    """It is never held. Slurm 24.11 starts it once more at its end; it has the exit status of its program."""
    job, end = counting(cluster, bundle, kind)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(3)
        for _ in range(times):
            job.preempt()
        end.touch()
        assert job.wait_end() == "FAILED"
        record, restarts = job.record(), times + SUITE.requeues_twice
        assert (record["restart_cnt"], record["exit_code"]["return_code"]["number"]) == (restarts, 3)
        assert job.ledger().split() == [str(number) for number in range(1, job.ticks() + 1)]
        said = [event for event in job.events() if event.startswith("requeueing")]
        once_more = (
            ", uncounted (MaxBatchRequeue=5): when it has ended, Slurm may start it once more, to give its exit status"
        )
        plain = f"requeueing job {job.number}"
        assert said == [plain] * 3 + [plain + once_more] * (times - 3)
        step = "batch" if kind == "batch" else "0"
        had_finished = f"job {job.number} step {step} task 0 had finished with status 3"
        assert (had_finished in job.output()) == SUITE.requeues_twice


@pytest.mark.parametrize(
    ("options", "why"), [(("-p", "cut"), "PreemptMode=CANCEL"), (("--no-requeue",), "--no-requeue")]
)
@KINDS
def test_preempted_for_good(cluster: Cluster, bundle: str, kind: Submit, options: tuple[str, ...], why: str) -> None:
    job = kind(cluster, bundle, "cut", Work(), *jobs.OPTIONS, *options)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(3)
        high = job.displace()
        wait_for(lambda: job.state() == "PREEMPTED", 60, "its end")
        goes_on = f"a job with --restart-dir={job.number} goes on from here"
        assert job.events()[1:] == [f"job {job.number} is not requeued ({why}): {goes_on}"]
        done = cluster.exec("ctl", ["oci-criu-shim", "job", "status", "--checkpoint-dir", jobs.CHECKPOINTS, job.number])
        assert done.stdout.startswith(f"job {job.number} (cut): preempted; ") and f"{why}: {goes_on}" in done.stdout
        cluster.exec("ctl", ["scancel", high])
        again = kind(cluster, bundle, "again", Work(), *jobs.OPTIONS, f"--restart-dir={job.number}")
    with quoting(again):
        assert again.wait_end() == "COMPLETED"
        assert "restored " in again.output()


@KINDS
def test_a_signal_of_its_own_tells_of_a_preemption(cluster: Cluster, bundle: str, kind: Submit) -> None:
    job = kind(cluster, bundle, "own", Work(), *jobs.OPTIONS, "--signal=USR1@10")
    jobs.preempt_once(job)


TRAPPING = "trap 'echo told >>{ledger}' USR1; while :; do echo $((i+=1)) >>{ledger}; sleep 0.1; done"


def test_a_signal_to_the_batch_step_alone(cluster: Cluster, bundle: str) -> None:
    """Before a time limit it is the program's; at a preemption it is not."""
    script = TRAPPING.format(ledger="/shared/trap.ledger")
    options = (*jobs.OPTIONS, f"--container={bundle}", "--signal=B:USR1@100")
    job = jobs.submit(cluster, "trap", script, ENDLESS, *options, "--time=2")
    with quoting(job):
        job.wait_running()
        wait_for(lambda: "told" in job.ledger(), 60, "the signal before its time limit")
        assert not job.events()
    cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()
    job = jobs.submit(cluster, "trap", script, ENDLESS, *options)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(3)
        job.preempt()
        expected = ["checkpointed", "requeueing", "restored"]
        wait_for(lambda: [event.split()[0] for event in job.events()] == expected, 30, "its restore, and no more")
        assert "told" not in job.ledger()
    cluster.exec("ctl", ["scancel", job.number])
    job.wait_end()


PASSING_ON = """
trap 'echo told >>{ledger}; oci-criu-shim job checkpoint $SLURM_JOB_ID' USR1
srun --container={bundle} {command} &
until wait; do :; done
"""


def test_a_script_that_passes_its_signal_on(cluster: Cluster, bundle: str) -> None:
    script = PASSING_ON.replace("{bundle}", bundle).replace("{ledger}", "/shared/told")
    job = jobs.submit(cluster, "pass", script, Work(), *jobs.OPTIONS, "--signal=B:USR1@58")
    jobs.preempt_once(job)
    assert (cluster.shared / "told").read_text() == "told\n"
