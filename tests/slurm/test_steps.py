"""Batch scripts of several steps, which begin at their top when their job is requeued; arrays, heterogeneous jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.cluster.suite import SUITE
from tests.harness.jobs import CHECKPOINTS, Job, Work, quoting

CREATE = REPOSITORY / "etc/oci.conf.d/crun-create.conf"
ASKED = f"--checkpoint --checkpoint-dir={CHECKPOINTS}"
# `run` is a step in a container; `say` notes what the script itself does.
PROLOGUE = """
say() {{ echo "$*" >>/shared/{name}.marks; }}
run() {{ srun --overlap --container={bundle} {asked} "$@"; }}
note() {{ run "$@" sh -c "echo \\$SLURM_PROCID of {name} >>/shared/{name}.marks; exit $status"; }}
say top
"""


@pytest.fixture(params=["run", "create"])
def form(request: pytest.FixtureRequest, shim_cluster: Cluster) -> Iterator[str]:
    """How Slurm starts containers; slurmstepd reads oci.conf for each step."""
    path = shim_cluster.conf / "oci.conf"
    before = path.read_text()
    if request.param == "create":
        path.write_text(CREATE.read_text())
    yield request.param
    path.write_text(before)


def submit(cluster: Cluster, bundle: str, name: str, script: str, *options: str, work: Work | None = None) -> Job:
    marks(cluster, name).unlink(missing_ok=True)
    text = PROLOGUE.format(name=name, bundle=bundle, asked=ASKED).replace("{", "{{").replace("}", "}}") + script
    return jobs.submit(cluster, name, text, work or Work(ticks=14, tick=0.4, mib=1), "--open-mode=append", *options)


def marks(cluster: Cluster, name: str) -> Path:
    return cluster.shared / f"{name}.marks"


def said(cluster: Cluster, name: str) -> list[str]:
    return marks(cluster, name).read_text().splitlines()


def finished(job: Job, step: int, task: int, status: int) -> str:
    what = f"job {job.number} step {step} task {task}"
    return f"{what} had finished with status {status}; not run again (--checkpoint-rerun runs it)"


def is_gone(job: Job) -> bool:
    return not (job.cluster.home / f"alice/ckpt/{job.number}").exists()


def test_a_step_that_is_told_nothing(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Not that its job was restarted, either."""
    script = f"unset SLURM_RESTART_COUNT; exec srun --export=NONE --container={shim_bundle} {{command}}"
    job = jobs.submit(shim_cluster, "told-nothing", script, Work(ticks=50, tick=0.4, mib=1), *jobs.OPTIONS)
    job.wait_running()
    job.wait_ticks(3)
    job.preempt()
    shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number])
    manifests = (shim_cluster.home / f"alice/ckpt/{job.number}/0.0").glob("*/manifest.json")
    assert [json.loads(path.read_text())["restarts"] for path in sorted(manifests)] == [0, 1]
    assert job.wait_end() == "COMPLETED", job.quoted()
    assert not job.failures()


THREE = """
mkfifo $TMPDIR/never.$SLURM_JOB_ID; exec 3<>$TMPDIR/never.$SLURM_JOB_ID; rm $TMPDIR/never.$SLURM_JOB_ID
status=0; note -n2 --overcommit <&3; say first $?
status=3; note || say second $?
(run {command}; say third $?) &
until squeue --noheader --steps --format=%i --jobs=$SLURM_JOB_ID | grep -q "[.]2$"; do sleep 0.2; done
(run sh -c "echo >/shared/{name}.fourth; exec sleep 20"; say fourth $?) &
wait
"""


def test_each_step_runs_once(shim_cluster: Cluster, shim_bundle: str, form: str) -> None:
    """The first one's input never ends. Two are caught, and the script does not see the one that is first to be dumped
    end."""
    name = f"three-{form}"
    begun = shim_cluster.shared / f"{name}.fourth"
    begun.unlink(missing_ok=True)
    script = THREE.replace("{name}", name)
    job = submit(shim_cluster, shim_bundle, name, script, "--checkpoint", work=Work(ticks=40, tick=0.4, mib=1))
    job.wait_running()
    wait_for(begun.exists, 60, "its fourth step")
    job.wait_ticks(3)
    job.preempt()
    assert job.wait_end() == "COMPLETED", job.quoted()
    found = said(shim_cluster, name)
    note = f"of {name}"
    assert found[0] == "top" and sorted(found[1:3]) == [f"0 {note}", f"1 {note}"], job.quoted()
    assert found[3:9] == ["first 0", f"0 {note}", "second 3", "top", "first 0", "second 3"], job.quoted()
    assert sorted(found[9:]) == ["fourth 0", "third 0"], job.quoted()
    assert job.ticks() == job.work.ticks and "end sum-ok" in job.output(), job.quoted()
    assert len([event for event in job.events() if event.startswith("restored")]) == 2, job.quoted()
    skipped = [event for event in job.events() if "had finished" in event]
    assert sorted(skipped) == [finished(job, 0, 0, 0), finished(job, 0, 1, 0), finished(job, 1, 0, 3)]
    wait_for(lambda: is_gone(job), 15, "its checkpoints to be gone")


# The second time, step 1 is another command, and step 2 in another bundle; step 3 ended because the job did, though
# with status 0.
REQUEUED = """
status=0; note; say first $?
run sh -c "echo run $SLURM_RESTART_COUNT >>/shared/$SLURM_JOB_NAME.marks"; say second $?
ln -sfn BUNDLE BUNDLE.$SLURM_RESTART_COUNT
run --container=BUNDLE.$SLURM_RESTART_COUNT sh -c "echo as before >>/shared/$SLURM_JOB_NAME.marks"; say third $?
run sh -c "trap 'exit 0' TERM; echo ready >>/shared/$SLURM_JOB_NAME.marks; while :; do sleep 0.1; done"; say fourth $?
"""


def requeue(cluster: Cluster, bundle: str, name: str, *options: str) -> Job:
    job = submit(cluster, bundle, name, REQUEUED.replace("BUNDLE", bundle), "--checkpoint", *options)
    wait_for(lambda: marks(cluster, name).exists() and "ready" in said(cluster, name), 60, "its fourth step")
    cluster.exec("ctl", ["scontrol", "requeue", job.number])
    wait_for(lambda: job.state() == "PENDING", 30, "it to be requeued")
    cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
    wait_for(lambda: said(cluster, name).count("top") == 2, 60, "its second run")
    return job


def test_what_is_not_taken_for_finished(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = requeue(shim_cluster, shim_bundle, "other")
    assert job.wait_end() == "COMPLETED", job.quoted()
    both = ["second 0", "as before", "third 0"]
    first = ["top", "0 of other", "first 0", "run", *both, "ready"]
    assert said(shim_cluster, "other") == [*first, "top", "first 0", "run 1", *both, "fourth 1"], job.quoted()
    what = f"job {job.number} step"
    assert job.events() == [
        finished(job, 0, 0, 0),
        f"{what} 1 task 0 runs: what had finished under this number has another command",
        f"{what} 2 task 0 runs: what had finished under this number has another bundle",
        f"error: {what} 3 task 0 was restarted, and has no checkpoint in {CHECKPOINTS}/{job.number}/3.0 to go on from "
        "(hint: resubmit it; with fresh-start = true in config.toml it would have begun again)",
    ]


def test_rerun(shim_cluster: Cluster, shim_bundle: str) -> None:
    job = requeue(shim_cluster, shim_bundle, "rerun", "--checkpoint-rerun")
    job.wait_end()
    both = ["second 0", "as before", "third 0"]
    first = ["top", "0 of rerun", "first 0", "run", *both, "ready"]
    again = ["top", "0 of rerun", "first 0", "run 1", *both, "fourth 1"]
    assert said(shim_cluster, "rerun") == [*first, *again], job.quoted()
    assert len(job.events()) == 1 and "has no checkpoint" in job.events()[0]


BETWEEN = """
status=0; note; say waits; until [ -e /shared/between.go ]; do sleep 0.1; done; note; say end
"""


def test_no_step_starts_in_the_grace_time(shim_cluster: Cluster, shim_bundle: str) -> None:
    """What was preempted between two steps goes on with the next one."""
    go = shim_cluster.shared / "between.go"
    go.unlink(missing_ok=True)
    job = submit(shim_cluster, shim_bundle, "between", BETWEEN, "--checkpoint")
    node = job.wait_running()
    wait_for(lambda: marks(shim_cluster, "between").exists() and "waits" in said(shim_cluster, "between"), 30, "it")
    high = job.displace()
    signalled = f"/run/oci-criu-shim/{job.number}/signalled"
    wait_for(lambda: not shim_cluster.exec(node, ["test", "-e", signalled], check=False).returncode, 30, "the signal")
    go.touch()
    wait_for(lambda: job.record()["restart_cnt"] == 1, 60, "it to be requeued")
    shim_cluster.exec("ctl", ["scancel", high])
    assert job.wait_end() == "COMPLETED", job.quoted()
    assert said(shim_cluster, "between") == ["top", "0 of between", "waits", "top", "waits", "0 of between", "end"]
    too_late = f"job {job.number} step 1 task 0 is not started: its job is about to be requeued"
    assert job.events() == [too_late, f"requeueing job {job.number}", finished(job, 0, 0, 0)], job.quoted()


def test_array(shim_cluster: Cluster, shim_bundle: str) -> None:
    """What is asked of its last task, whose number is the array's too, leaves the others alone; the whole array can be
    asked, too."""
    work = Work(ticks=50, tick=0.4, mib=1)
    command = work.command("/shared/array.ledger.$SLURM_ARRAY_TASK_ID")
    script = f"exec srun --container={shim_bundle} {command}"
    path = shim_cluster.shared
    for old in path.glob("array.ledger*"):
        old.unlink()
    output = "--output=/home/alice/%A.%a.out"
    first = jobs.submit(shim_cluster, "array", script, work, "--array=0-1", "-c2", output, *jobs.OPTIONS)
    last = Job(shim_cluster, first.number, work, path / "array.ledger.1")
    last.wait_running()
    last.wait_ticks(3)
    ours, name = ["oci-criu-shim", "job"], f"{first.number}_1"
    shim_cluster.exec("ctl", [*ours, "checkpoint", name])
    found = shim_cluster.exec("ctl", [*ours, "status", f"--checkpoint-dir={CHECKPOINTS}", name]).stdout
    assert found.startswith(f"job {last.number} ({name}, array): running; 1 run, 1 checkpoint, ")
    output_of = {n: (shim_cluster.home / f"alice/{first.number}.{n}.out") for n in (0, 1)}
    assert "oci-criu-shim" not in output_of[0].read_text()
    done = shim_cluster.exec("ctl", [*ours, "checkpoint", first.number])
    assert done.stdout.count(": checkpointed job ") == 2
    last.preempt()
    wait_for(lambda: all(p.read_text().count("end sum-ok") == 1 for p in output_of.values()), 90, "both ends")
    assert (path / "array.ledger.0").read_text().count("\n") == work.ticks
    assert last.ledger().count("\n") == work.ticks
    assert ["restored job" in output_of[n].read_text() for n in (0, 1)] == [False, True]


HET = """
run --het-group=0 {command}.0 &
run --het-group=1 {command}.1 &
wait
"""


def test_heterogeneous_job(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Both components are checkpointed if one is preempted."""
    for old in shim_cluster.shared.glob("het.ledger*"):
        old.unlink()
    work = Work(ticks=40, tick=0.4, mib=1)
    components = ["--checkpoint", "-w", "n1", ":", "-p", "low", "-n1", "-w", "n2", "--checkpoint"]
    script = HET.replace("{command}.0", work.command("/shared/het.ledger.0"))
    script = script.replace("{command}.1", work.command("/shared/het.ledger.1"))
    job = submit(shim_cluster, shim_bundle, "het", script, *components, work=work)
    job.nodes.append("n1")
    ledgers = [shim_cluster.shared / f"het.ledger.{number}" for number in (0, 1)]
    wait_for(lambda: all(p.exists() and p.read_text().count("\n") > 3 for p in ledgers), 60, "both components")
    done = shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number])
    taken = [line for line in done.stdout.splitlines() if f": checkpointed job {job.number} step " in line]
    assert [line.partition(":")[0] for line in taken] == ["n1", "n2"], done.stdout
    high = job.displace()
    wait_for(lambda: job.state() == "PENDING", 60, "it to be requeued")
    shim_cluster.exec("ctl", ["scancel", high])
    assert job.wait_end() == "COMPLETED", job.quoted()
    assert job.output().count("end sum-ok") == 2, job.quoted()
    assert [path.read_text().count("\n") for path in ledgers] == [work.ticks] * 2
    assert len([event for event in job.events() if event.startswith("restored")]) == 2, job.quoted()


def test_what_ended_jobs_left_goes_with_a_later_one(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Slurm has never known of job 4294."""
    store = shim_cluster.home / "alice/ckpt"
    shim_cluster.exec("n1", ["mkdir", "-p", f"{CHECKPOINTS}/4294/0.0"])
    shim_cluster.exec("n1", ["touch", f"{CHECKPOINTS}/4294/0.0/started", f"{CHECKPOINTS}/last-prune"])
    run = ["srun", *jobs.OPTIONS[:2], f"--container={shim_bundle}", "true"]
    shim_cluster.exec("ctl", run)
    assert (store / "4294").exists()
    for path in (store / "last-prune", store / "4294/0.0"):
        os.utime(path, (0, 0))
    shim_cluster.exec("ctl", [*run[:-1], "sleep", "2"])
    wait_for(lambda: not (store / "4294").exists(), 15, "it to be removed")


# CRIU can't dump what a UDP socket holds back (UDP_CORK), so there is no checkpoint of it.
LATE = """
import os, socket, sys, time
corked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
corked.setsockopt(socket.IPPROTO_UDP, 1, 1)
with open("/shared/late.marks", "a") as stream:
    print("ran", file=stream)
while not os.path.exists("/shared/late.end"):
    time.sleep(0.1)
sys.exit(5)
"""


def test_a_batch_step_that_ends_in_the_grace_time(shim_cluster: Cluster, shim_bundle: str) -> None:
    """Slurm requeues the job all the same, and at once; it does not begin again."""
    (shim_cluster.shared / "late.py").write_text(LATE)
    marks(shim_cluster, "late").unlink(missing_ok=True)
    options = (f"--container={shim_bundle}", *jobs.OPTIONS)
    job = jobs.submit(shim_cluster, "late", "exec python3 /shared/late.py", Work(), *options)
    job.wait_running()
    wait_for(lambda: marks(shim_cluster, "late").exists(), 30, "its start")
    high = job.displace()
    wait_for(lambda: "could not be checkpointed" in job.output(), 30, "the dump to fail")
    (shim_cluster.shared / "late.end").touch()
    wait_for(lambda: job.record()["restart_cnt"] == 1, 60, "its requeue")
    assert job.wait_end(60) == "FAILED", "it is held back as long as any requeued job"
    assert job.record()["exit_code"]["return_code"]["number"] == 5
    assert f"job {job.number} step batch task 0 had finished with status 5" in job.output()
    assert said(shim_cluster, "late") == ["ran"]
    shim_cluster.exec("ctl", ["scancel", high])


def test_requeued_by_slurm_itself(shim_cluster: Cluster, shim_bundle: str) -> None:
    """At the end of its grace time. slurmctld 24.11 does not forget that it was preempted, and requeues it once more
    when it ends: it had finished, and is not held back for long."""
    options = ("--checkpoint=signal:USR1", *jobs.OPTIONS[1:])
    job = jobs.batch(shim_cluster, shim_bundle, "again", Work(ticks=60), *options)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(2)
        shim_cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number])
        high = job.displace()
        wait_for(lambda: job.record()["restart_cnt"] == 1, 60, "its requeue")
        wait_for(lambda: "COMPLETING" not in job.state(), 30, "its end on the node")
        shim_cluster.exec("ctl", ["scancel", high])
        shim_cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
        assert job.wait_end(90) == "COMPLETED"
        assert job.record()["restart_cnt"] == 1 + SUITE.requeues_twice
        had_finished = f"job {job.number} step batch task 0 had finished with status 0"
        assert (had_finished in job.output()) == SUITE.requeues_twice
