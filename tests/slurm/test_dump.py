"""What a dump and a restore keep, hold, and do when they fail, on a live cluster."""

from __future__ import annotations

import re
import subprocess

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import quoting
from tests.harness.verdict import ledger_failures
from tests.slurm.test_preemption import KINDS, Submit

# CAP_SYS_CHROOT and CAP_SYS_ADMIN: what a dump is lent.
LENT = f"{1 << 18 | 1 << 21:016x}"


def preempt_and_finish(job: jobs.Job) -> str:
    """Preempt a job that is at work, wait for its end; its output."""
    with quoting(job):
        job.wait_running()
        wait_for(lambda: "tick 3" in job.output(), 30, "tick 3")
        high = job.displace()
        wait_for(lambda: any(e.startswith("restored") for e in job.events()), 60, "the restore")
        job.cluster.exec("ctl", ["scancel", high])
        assert job.wait_end() == "COMPLETED"
    return job.output()


def test_what_a_process_holds_is_kept(shim_cluster: Cluster, shim_bundle: str) -> None:
    script = "exec python3 /shared/features.py 30 0.5"
    job = jobs.submit(shim_cluster, "features", script, jobs.Work(), f"--container={shim_bundle}", *jobs.OPTIONS)
    output = preempt_and_finish(job)
    ticks = [line for line in output.splitlines() if line.startswith("tick")]
    assert ticks == [f"tick {n} ok" for n in range(1, 31)], job.quoted()


def test_only_a_dump_holds_capabilities_and_just_the_lent_ones(shim_cluster: Cluster, shim_bundle: str) -> None:
    with (
        jobs.program(shim_cluster, "n1", "capabilities", "1000") as first,
        jobs.program(shim_cluster, "n2", "capabilities", "1000") as second,
    ):
        script = "exec python3 /shared/features.py 30 0.5"
        job = jobs.submit(shim_cluster, "caps", script, jobs.Work(), f"--container={shim_bundle}", *jobs.OPTIONS)
        preempt_and_finish(job)
        dumping, restoring = (holders(watcher.communicate()[0]) for watcher in (first, second))
    assert restoring == {}
    assert set(dumping.values()) == {LENT}
    # And what becomes or is started by it: the worker, and CRIU's own children (shells, tar, iptables, …).
    assert "criu" in dumping


def holders(text: str) -> dict[str, str]:
    """{program: effective capabilities} of those that hold any.

    slurmstepd is left out: it takes a user's effective id for moments, while it is still root.
    """
    lines = [line.split() for line in text.splitlines()]
    return {name: effective for name, effective, *_ in lines if name != "slurmstepd" and int(effective, 16)}


def test_a_failed_dump_says_why_and_the_container_runs_on(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = jobs.batch(shim_cluster, shim_bundle, "full", jobs.Work(ticks=60), *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    store = f"{jobs.CHECKPOINTS}/{job.number}/batch.0"
    shim_cluster.exec("n1", ["chmod", "500", store])
    before = job.ticks()
    high = job.displace()
    wait_for(lambda: any("could not be checkpointed and runs on" in e for e in job.events()), 30, "the reason")
    wait_for(lambda: job.ticks() > before + 4, 10, "the container to run on")
    wait_for(lambda: "PENDING" in job.state() and "COMPLETING" not in job.state(), 40, "Slurm's requeue")
    shim_cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
    wait_for(lambda: any("was restarted, and has no checkpoint" in e for e in job.events()), 60, "the refusal")
    shim_cluster.exec("ctl", ["scancel", high, job.number])
    shim_cluster.exec("n1", ["chmod", "700", store])
    reasons = [e for e in job.events() if e.startswith("error: ") and "could not be checkpointed" in e]
    assert re.search(r"Permission denied", reasons[0]), job.quoted()
    assert any("has no checkpoint: if its job is requeued, it fails" in e for e in job.events()), job.quoted()
    assert job.ledger().splitlines()[0].startswith("tick 1 ") and job.ledger().count("tick 1 ") == 1


@KINDS
def test_a_container_that_ends_with_criu(shim_cluster: Cluster, shim_bundle: str, kind: Submit) -> None:
    """It goes on from the checkpoint before."""
    asked = ("--checkpoint=signal:USR1", *jobs.OPTIONS[1:])
    job = kind(shim_cluster, shim_bundle, "trapped", jobs.Work(ticks=60, mode="append"), *asked)
    with quoting(job):
        node = job.wait_running()
        job.wait_ticks(2)
        request = ["oci-criu-shim", "job", "checkpoint", "--here", job.number]
        shim_cluster.exec(node, request)
        job.wait_ticks(job.ticks() + 3)
        with jobs.program(shim_cluster, node, "trap", job.number) as trapping:
            refused = shim_cluster.exec(node, request, check=False)
            assert trapping.wait() == 0
        assert refused.returncode
        job.preemptions += 1
        job.wait_restart()
        assert job.wait_end() == "COMPLETED"
        (reason,) = (event for event in job.events() if "since what did that was killed" in event)
        assert reason.startswith("error: ")
        assert ledger_failures(job.ledger(), job.output(), job.work.ticks, job.work.tick) == []


def test_what_takes_a_checkpoint_is_killed_after_the_commit(shim_cluster: Cluster, shim_bundle: str) -> None:
    """It is one nevertheless, and the job goes on from it."""
    job = jobs.step(shim_cluster, shim_bundle, "late", jobs.Work(mib=256), *jobs.OPTIONS)
    with quoting(job):
        node = job.wait_running()
        job.wait_ticks(3)
        with jobs.program(shim_cluster, node, "late", job.number) as killing:
            job.preempt()
            assert killing.wait() == 0
        assert job.wait_end() == "COMPLETED"
        assert any("then something failed: what took it was killed" in event for event in job.events())
        assert not job.failures()


def test_one_that_is_not_done_in_the_grace_time_says_how_far_it_is(shim_cluster: Cluster, shim_bundle: str) -> None:
    """CRIU is stopped as soon as it starts."""
    job = jobs.batch(shim_cluster, shim_bundle, "late", jobs.Work(ticks=90), *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(2)
    stop = "until pkill -STOP -u alice -f '^([^ ]*criu swrk|criu: dump )'; do sleep 0.02; done"
    argv = shim_cluster.argv(job.record()["nodes"], ["timeout", "60", "sh", "-c", stop], "root")
    with quoting(job), subprocess.Popen(argv):
        high = job.displace()
        late = wait_for(lambda: next((e for e in job.events() if "is not done: " in e), ""), 60, "the line")
        assert re.search(
            r"MiB of memory; it ends with the job's grace time in \d+ s, then there is no checkpoint", late
        )
        assert "a longer GraceTime of the site's or --checkpoint-interval would help" in late
        wait_for(lambda: "RUNNING" not in job.state(), 60, "the end of the grace time")
        told = shim_cluster.exec("ctl", ["oci-criu-shim", "job", "status", *jobs.OPTIONS[1:2], job.number], "alice")
        assert "is not done: " in told.stdout
        shim_cluster.exec("ctl", ["scancel", high, job.number])
