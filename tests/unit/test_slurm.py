"""What Slurm is asked for, and what its answers are taken for."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import commands, controller, grace, library, srun
from oci_criu_shim.slurm.job import Job
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import schedule
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.preempt import Preemption
from oci_criu_shim.when import parse


def seen(**changes: Any) -> Job:
    """Job 12, which runs, in a look at it; with `changes`."""
    known: dict[str, Any] = {
        **{"job_id": 12, "name": "12", "states": ["RUNNING"], "restarts": 0, "partition": "low"},
        **{"preempt_time": 0, "suspend_time": 0, "end_time": 1800000000, "limited": True},
        **{"batch": True, "batch_host": "n1", "requeue": True, "expedited": False, "node_count": 1},
        **{"required_nodes": "", "excluded_nodes": "", "features": "", "comment": ""},
    }
    fields: Any = {**known, **changes}
    return Job(fields)


class Slurm:
    """Answers in place of its commands, and notes them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.job = seen()

    def run(self, *argv: str) -> str:
        self.calls.append(" ".join(argv))
        if argv[0] == "sinfo":
            return "n1\nn2\nn3\n"
        return "n2\nn3\n" if argv[-1] == "n[2-3]" else f"{argv[-1]}\n"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    made = Slurm()
    monkeypatch.setattr(controller, "run", made.run)
    monkeypatch.setattr(controller, "job", lambda number, soon=False: made.job)
    return made


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        ({}, ["scontrol requeue 12"]),
        ({"states": ["PENDING", "COMPLETING"]}, []),
        ({"preempt_time": 1700000000}, ["scancel --state=RUNNING --batch --signal=64 12"]),
        ({"preempt_time": 1700000000, "suspend_time": 1700000001}, ["scontrol requeue 12"]),
        ({"name": "12_3"}, ["scontrol requeue 12_3"]),
    ],
)
def test_requeue(fake: Slurm, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], calls: list[str]) -> None:
    fake.job = seen(**change)
    monkeypatch.setattr(controller, "fate", lambda _: grace.Fate())
    controller.requeue(12)
    assert fake.calls == calls


def test_a_requeue_that_slurm_is_not_to_count(fake: Slurm) -> None:
    fake.job = seen(preempt_time=1700000000)
    controller.requeue(12, grace.Fate(count=4))
    assert fake.calls == ["scontrol requeue 12"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "shim: new"),
        ("mine", "mine | shim: new"),
        ("mine | also, = mine | shim: old", "mine | also, = mine | shim: new"),
        ("shim: old", "shim: new"),
    ],
)
def test_the_users_comment_stays(fake: Slurm, before: str, after: str) -> None:
    fake.job = seen(comment=before)
    controller.remark(12, "shim: ", "new")
    assert fake.calls == [f"scontrol update JobId=12 Comment={after}"]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"node_count": 2}, True),
        ({"node_count": 3}, False),
        ({"excluded_nodes": "n[2-3]"}, False),
        ({"required_nodes": "n1"}, False),
        ({"requeue": False}, False),
        ({"batch": False}, False),
    ],
)
def test_another_node(fake: Slurm, change: dict[str, Any], wanted: bool) -> None:
    found = seen(**change)
    assert controller.has_another_node(found, "n1", found.fields["required_nodes"]) is wanted


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"excluded_nodes": "n1"}, True),
        ({"required_nodes": "n1"}, True),
        ({"required_nodes": "n2"}, False),
        ({"node_count": 2}, False),
        ({"requeue": False}, False),
        ({"batch": False}, False),
    ],
)
def test_the_one_node(fake: Slurm, change: dict[str, Any], wanted: bool) -> None:
    found = seen(**change)
    assert controller.can_wait_for(found, "n1", found.fields["required_nodes"]) is wanted
    assert not controller.can_wait_for(found, "n9", "")


@pytest.mark.parametrize(
    ("excluded", "node", "wanted"),
    [
        ("", "n1", ["ReqNodeList=n1"]),
        ("n1", "n1", ["ExcNodeList=", "ReqNodeList=n1"]),
        ("n[2-3]", "n1", ["ReqNodeList=n1"]),
        ("n[2-3]", "n3", ["ExcNodeList=n2", "ReqNodeList=n3"]),
    ],
)
def test_what_else_was_excluded_stays_so(fake: Slurm, excluded: str, node: str, wanted: list[str]) -> None:
    assert controller.waiting_for(seen(excluded_nodes=excluded), node) == wanted


JOB = "JobId=12 JobName=a job UserId=u(1) Account=physics QOS=normal Partition=low NumNodes=1 NumCPUs=4 "


@pytest.mark.parametrize(
    ("has", "memory", "wanted"),
    [
        ("MinMemoryCPU=1G Features=(null)", 1 << 30, ["--mem=4096M"]),
        ("MinMemoryCPU=1G", 5 << 30, ["--mem=5120M"]),
        ("MinMemoryNode=1500M", 1 << 30, ["--mem=1500M"]),
        ("MinMemoryNode=0", 1 << 30, ["--mem=0"]),
        ("MinMemoryNode=2G OverSubscribe=NO", 1 << 30, ["--exclusive", "--mem=2048M"]),
        ("MinMemoryNode=2G OverSubscribe=OK", 1 << 30, ["--mem=2048M"]),
        (
            "MinMemoryNode=2G Features=avx2&ib TresPerNode=gres/gpu:1 Reservation=course TimeLimit=1-00:00:00",
            1 << 30,
            ["--constraint=avx2&ib", "--gres=gres/gpu:1", "--reservation=course", "--time=1-00:00:00", "--mem=2048M"],
        ),
    ],
)
def test_a_job_like_another(monkeypatch: pytest.MonkeyPatch, has: str, memory: int, wanted: list[str]) -> None:
    def run(*argv: str) -> str:
        assert argv == ("scontrol", "show", "job", "12_3", "--oneliner")
        return f"{JOB}{has}\n"

    monkeypatch.setattr(srun, "run", run)
    monkeypatch.setattr(controller, "configuration", lambda: {"SelectTypeParameters": "CR_CORE_MEMORY"})
    words = srun.like("12_3", memory)
    assert words == ["--partition=low", "--cpus-per-task=4", "--account=physics", "--qos=normal", *wanted]


def test_where_memory_is_nothing_that_slurm_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = "Partition=low NumCPUs=1 MinMemoryNode=0 Account=(null) QOS=(null)"
    monkeypatch.setattr(srun, "run", lambda *_: bare)
    monkeypatch.setattr(controller, "configuration", lambda: {"SelectTypeParameters": "CR_CORE"})
    assert srun.like("12", 1 << 30) == ["--partition=low", "--cpus-per-task=1"]


@pytest.mark.parametrize(
    ("settings", "plugin"),
    [
        ({}, ""),
        ({"JobContainerType": "(null)"}, ""),
        ({"JobContainerType": "job_container/none"}, ""),
        ({"JobContainerType": "job_container/tmpfs"}, "job_container/tmpfs"),
        # Slurm 25.11 has another name for it.
        ({"NamespaceType": "(null)"}, ""),
        ({"NamespaceType": "namespace/none"}, ""),
        ({"NamespaceType": "namespace/tmpfs"}, "namespace/tmpfs"),
        ({"NamespaceType": "namespace/linux"}, "namespace/linux"),
    ],
)
def test_whether_jobs_share_memory(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], plugin: str) -> None:
    monkeypatch.setattr(controller, "configuration", lambda: settings)
    assert controller.private_memory() == plugin


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=n1 Version=24.11", ["10.0.0.1", "n1"]),
        ("NodeName=n1 NodeAddr=n1 NodeHostName=n1", ["n1"]),
        ("NodeName=n1 State=FUTURE", ["n1"]),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, said: str, wanted: list[str]) -> None:
    monkeypatch.setattr(controller, "run", lambda *_: said)
    assert controller.addresses("n1") == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("RUNNING None\n", ("RUNNING", "None")),
        ("PENDING BeginTime\n", ("PENDING", "BeginTime")),
        ("PENDING held by an admin \n", ("PENDING", "held by an admin")),
        ("", ("", "")),
        (ShimError("squeue: slurm_load_jobs error: Invalid job id specified"), ("", "")),
    ],
)
def test_the_state_of_a_job(monkeypatch: pytest.MonkeyPatch, said: str | ShimError, wanted: tuple[str, str]) -> None:
    def run(*argv: str) -> str:
        assert argv[:2] == ("squeue", "--jobs=12")
        if isinstance(said, ShimError):
            raise said
        return said

    monkeypatch.setattr(controller, "run", run)
    assert controller.state_of(12) == wanted


def test_the_state_of_a_job_when_slurm_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no end of the job."""

    def run(*_: str) -> str:
        raise ShimError("squeue: slurm_load_jobs error: Unable to contact slurm controller (connect failure)")

    monkeypatch.setattr(controller, "run", run)
    with pytest.raises(ShimError, match="Unable to contact"):
        controller.state_of(12)


@pytest.fixture
def a_srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says its words, what it reads, and complains."""
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\ncat\necho no such thing >&2\nexit 3\n')
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setattr("oci_criu_shim.host.process.PATH", f"{tmp_path}:/usr/bin:/bin")


def heard(step: srun.Srun) -> list[str]:
    lines: list[str] = []
    assert process.wait(step.listen(lines.append)) == 3
    return lines


def test_a_step_beside_the_jobs_own(a_srun: None, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, {**RECORD, "node_count": number_of(1)})
    (part,) = controller.running("12")
    words = "--jobid=12 --overlap --chdir=/ --quiet --nodes=1 --ntasks=1 shim job migrate"
    assert heard(srun.step(part, ["shim", "job", "migrate"], "a place\n")) == [words, "a place", "no such thing"]


def test_an_allocation_of_its_own(a_srun: None) -> None:
    words = "--nodelist=n2 --nodes=1 --ntasks=1 --cpu-bind=none --chdir=/ --quiet --kill-on-bad-exit shim job receive"
    assert heard(srun.allocate(["--nodelist=n2"], ["shim", "job", "receive"])) == [words, "no such thing"]


def test_what_the_user_set_for_his_own_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scancel", "srun"):
        (tmp_path / name).write_text('#!/bin/sh\nexport -p >"$0.set"\n')
        (tmp_path / name).chmod(0o755)
    users = ("SCANCEL_STATE", "SCONTROL_ALL", "SLURM_CLUSTERS", "SLURM_JOB_ID", "SLURM_JSON", "SRUN_CONTAINER")
    for name in (*users, *commands.KEPT):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr("oci_criu_shim.host.process.PATH", str(tmp_path))
    answer(monkeypatch, RECORD)
    controller.end_batch_step("12")
    (part,) = controller.running("12")
    assert srun.run_on_nodes(part, ["true"], print) == 0
    for name in ("scancel", "srun"):
        found = re.findall(r"export (\w+)=", (tmp_path / f"{name}.set").read_text())
        assert set(found) - {"OLDPWD", "PWD"} == {"LANG", "PATH", *commands.KEPT}


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (seen().excluding("n1"), "ExcNodeList=n1"),
        (seen(excluded_nodes="n[2-3]").excluding("n1"), "ExcNodeList=n[2-3],n1"),
        (seen().wanting("a"), "Features=a"),
        (seen(features="b&c").wanting("a"), "Features=b&c&a"),
        (seen(features="b|c").wanting("a"), "Features=(b|c)&a"),
        (seen(features="b&a").wanting("a"), ""),
    ],
)
def test_updates(said: str, wanted: str) -> None:
    assert said == wanted


def policy(when: str = "none", **fields: object) -> Any:
    """As much of one as a departure of job 12 needs, and `fields`."""
    known = {"task": SimpleNamespace(job=12), "container": SimpleNamespace(root=""), "store": None, "log": Log()}
    return SimpleNamespace(when=parse(when), **known | fields)


RUNNING, REQUEUED, CANCELLED = ["RUNNING"], ["PENDING", "COMPLETING"], ["CANCELLED", "COMPLETING"]


@pytest.mark.parametrize(
    ("change", "when", "why"),
    [
        ({}, "preempt,timeout", ""),
        ({"preempt_time": 9}, "preempt", "preempt"),
        ({"preempt_time": 9}, "timeout", ""),
        # It was suspended for another job, and goes on.
        ({"preempt_time": 9, "suspend_time": 10}, "preempt,timeout", ""),
        # Another of its nodes was ready before.
        ({"preempt_time": 9, "states": REQUEUED, "restarts": 1}, "preempt", "preempt"),
        ({"preempt_time": 9, "states": REQUEUED, "restarts": 1}, "timeout", ""),
        ({"states": REQUEUED, "restarts": 1}, "timeout", "timeout"),
        ({"states": REQUEUED, "restarts": 1}, "preempt", ""),
        # Cancelled in the grace time; cancelled; at the end of its time limit; requeued a while ago.
        ({"preempt_time": 9, "states": CANCELLED}, "preempt,timeout", ""),
        ({"states": CANCELLED}, "preempt,timeout", ""),
        ({"states": ["TIMEOUT", "COMPLETING"]}, "preempt,timeout", ""),
        ({"states": ["PENDING"], "restarts": 1}, "preempt,timeout", ""),
    ],
)
def test_whether_a_job_must_go(fake: Slurm, change: dict[str, Any], when: str, why: str) -> None:
    fake.job = seen(**change)
    assert Departure(policy(when)).why() == why


def test_a_job_that_does_not_go_but_has_ended_is_noted(fake: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks may be killed before the program ends."""
    noted: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(Log, "note", lambda self, kind, **facts: noted.append((kind, facts)))
    for states in (RUNNING, REQUEUED, CANCELLED):
        fake.job = seen(states=states, end_time=77)
        Departure(policy("preempt")).why()
    assert noted == [("job-ended", {"state": "CANCELLED", "at": 77})]


@pytest.mark.parametrize(
    ("why", "word", "states", "left"),
    [
        ("preempt", "ended", RUNNING, True),
        ("timeout", "ended", REQUEUED, True),
        ("timeout", "ended", RUNNING, False),
        ("preempt", "failed", RUNNING, True),
        ("timeout", "stuck", RUNNING, False),
    ],
)
def test_requeued_without_a_checkpoint(
    fake: Slurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str, word: str, states: list[str], left: bool
) -> None:
    """All have ended by themselves, or the dump failed, and Slurm requeues the job nevertheless, which is not to wait;
    or it does not, before its time limit."""
    fake.job = seen(states=states)
    container = SimpleNamespace(root=str(tmp_path), path=tmp_path.joinpath)
    task = SimpleNamespace(job=12, name="12_3", is_batch=True)
    monkeypatch.setattr("oci_criu_shim.config.load", lambda: SimpleNamespace(feature=""))
    monkeypatch.setattr("oci_criu_shim.container.jobs.asked", lambda _: [container])
    monkeypatch.setattr(controller, "end_batch_step_after_grace", lambda _: None)
    Departure(policy(container=container, task=task, log=Log())).mark(why, word)
    assert RunDirectory(str(tmp_path)).is_requeued is left
    assert fake.calls == []


def test_slurm_is_not_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "job", None)
    assert Departure(policy("interval:30m")).why() == ""


def test_nobody_to_wait_for_the_end(fake: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(process, "spawn", spawn)
    monkeypatch.setattr(process, "find", lambda name: f"/bin/{name}")
    fake.job = seen(end_time=1)
    with pytest.raises(ShimError, match=r"start a process that waits .* Resource temp"):
        controller.requeue_before_limit(12)


@pytest.mark.parametrize("changed", [False, True])
def test_a_requeue_before_the_limit(
    fake: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """None where the limit was changed meanwhile."""
    for name, text in (("squeue", "date +%N" if changed else "echo 12:00"), ("scontrol", 'echo "$@" >"$0.ran"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("oci_criu_shim.host.process.PATH", f"{tmp_path}:/usr/bin:/bin")
    fake.job = seen(end_time=1)
    spawn, started = process.spawn, []
    monkeypatch.setattr(process, "spawn", lambda *words: started.append(spawn(*words)))
    controller.requeue_before_limit(12)
    process.wait(started[0])
    ran = tmp_path / "scontrol.ran"
    assert (ran.read_text() if ran.exists() else "") == ("" if changed else "requeue 12\n")


UNSET = {"set": False, "infinite": False, "number": 0}


def number_of(number: int) -> dict[str, Any]:
    return {**UNSET, "set": True, "number": number}


RECORD = {
    **{"job_id": 12, "job_state": ["RUNNING"], "restart_cnt": 1, "partition": "low", "features": "", "comment": "mine"},
    **{"array_job_id": number_of(0), "array_task_id": UNSET, "batch_flag": True, "batch_host": "n1"},
    **{
        "preempt_time": UNSET,
        "suspend_time": UNSET,
        "end_time": {**UNSET, "set": True, "number": 1800000000},
        "requeue": True,
        "flags": ["BACKFILL_ATTEMPTED"],
    },
    **{"time_limit": {**UNSET, "set": True, "number": 60}, "node_count": {**UNSET, "set": True, "number": 2}},
    **{"required_nodes": "", "excluded_nodes": "n3", "user_id": os.geteuid()},
    **{"het_job_id": UNSET, "het_job_offset": UNSET},
}


def answer(monkeypatch: pytest.MonkeyPatch, *records: dict[str, Any]) -> None:
    monkeypatch.setattr(commands, "run", lambda *_: json.dumps({"jobs": records}))


def test_one_look_at_the_time_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it is, whether it was changed, and whether the job may be requeued."""
    calls: list[tuple[str, ...]] = []
    ends: list[int] = []

    def run(*argv: str) -> str:
        calls.append(argv[1:3])
        return json.dumps({"jobs": [RECORD]})

    monkeypatch.setattr(commands, "run", run)
    due = SimpleNamespace(looked=ends.append, due=lambda: schedule.TIMEOUT)
    task, container = SimpleNamespace(job=12, partition="low"), SimpleNamespace(root=str(tmp_path), name="c")
    limits = {"grace": 0, "note_limits": lambda end, grace: ends.append(end)}
    going = policy("timeout", task=task, container=container, schedule=due, **limits)
    assert Preemption(going)._why(schedule.TIMEOUT) == schedule.TIMEOUT
    assert (calls, ends) == ([("show", "job")], [1800000000, 1800000000])


def test_what_scontrol_says_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, RECORD)
    wanted = seen(restarts=1, node_count=2, comment="mine", excluded_nodes="n3").fields
    assert commands.Commands().job(12) == wanted


def test_no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, {**RECORD, "time_limit": {**UNSET, "infinite": True}})
    assert Job(commands.Commands().job(12)).end_time == 0


def test_one_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"array_job_id": {**UNSET, "set": True, "number": 12}, "array_task_id": {**UNSET, "set": True, "number": 3}}
    answer(monkeypatch, {**RECORD, "job_id": 13, "job_state": ["COMPLETED"]}, {**RECORD, **task})
    ended, running = (Job(commands.Commands().job(number)) for number in (13, 12))
    assert (ended.name, ended.has_completed) == ("13", True)
    assert (running.name, running.has_completed) == ("12_3", False)
    with pytest.raises(ShimError, match="Slurm knows no job 9"):
        commands.Commands().job(9)


def test_held_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run", lambda *_: "12 0 JobHeldUser\n13 4294901757 Priority\n14 0 held for good\n")
    assert commands.Commands().held() == {12: "JobHeldUser", 14: "held for good"}


HET = [(12, 12, 0), (13, 12, 1)]


@pytest.mark.parametrize(("name", "parts"), [("12", HET), ("13", HET[1:]), ("12+1", HET[1:])])
def test_components(monkeypatch: pytest.MonkeyPatch, name: str, parts: list[tuple[int, ...]]) -> None:
    of = {"het_job_id": number_of(12)}
    components = [{**RECORD, **of, "job_id": 12 + n, "het_job_offset": number_of(n)} for n in range(2)]
    answer(monkeypatch, *components)
    found = commands.Commands().parts(name)
    assert [(part["job"], part["leader"], part["group"]) for part in found] == parts


def test_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number, 14, is that of its last task, too; that of tasks that wait is another one's."""
    of = {"array_job_id": number_of(14)}
    tasks = {12: number_of(0), 13: number_of(1), 14: number_of(2)}
    records = [{**RECORD, **of, "job_id": job, "array_task_id": tasks[job]} for job in tasks]
    records[1]["job_state"] = ["PENDING"]
    answer(monkeypatch, *records)
    for name, wanted in (("14", [12, 14]), ("12", [12]), ("14_2", [14])):
        assert [part["job"] for part in controller.running(name)] == wanted
    with pytest.raises(ShimError, match="job 13 does not run: it is PENDING"):
        controller.running("14_1")
    with pytest.raises(ShimError, match="job 14_4 has not begun"):
        controller.running("14_4")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"job_state": ["COMPLETED"]}, "job 12 does not run: it is COMPLETED"),
        ({"user_id": 4711}, "job 12 belongs to user 4711"),
    ],
)
def test_no_step_for_that_job(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str) -> None:
    answer(monkeypatch, {**RECORD, **change})
    with pytest.raises(ShimError, match=said):
        controller.running("12")


@pytest.mark.parametrize("record", [{}, {**RECORD, "array_task_id": None}])
def test_what_another_slurm_says(monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]) -> None:
    answer(monkeypatch, record)
    with pytest.raises(ShimError, match="gave none that this version reads"):
        commands.Commands().job(12)


def test_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch)
    with pytest.raises(ShimError, match="Slurm knows no job 12"):
        commands.Commands().job(12)


@pytest.mark.parametrize(
    ("change", "goes_on", "has_script"),
    [
        ({}, True, True),
        ({"restarts": 1}, False, True),
        ({"preempt_time": 9}, False, True),
        ({"preempt_time": 9, "suspend_time": 10}, True, True),
        ({"states": CANCELLED}, False, False),
        ({"states": REQUEUED}, False, False),
        ({"batch": False}, True, False),
    ],
)
def test_job_states(change: dict[str, Any], goes_on: bool, has_script: bool) -> None:
    job = seen(**change)
    assert (job.goes_on(0), job.has_script) == (goes_on, has_script)


@pytest.fixture
def pyslurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file with the version of an installed pyslurm, for Slurm 24.05."""
    package = tmp_path / "pyslurm"
    package.mkdir()
    (package / "__init__.py").write_text("from pyslurm.version import __version__\n")
    (package / "version.py").write_text('# a comment\n__version__ = "24.5.1"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(controller, "CONF", (str(package),))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setattr(commands, "run", lambda *argv: "slurm 24.05.4\n" if argv == VERSION else "")
    controller._slurm.cache_clear()
    yield package / "version.py"
    controller._slurm.cache_clear()
    for name in ("pyslurm", "pyslurm.version"):
        sys.modules.pop(name, None)


VERSION = ("scontrol", "--version")


def test_by_pyslurm(pyslurm: Path) -> None:
    flags = sys.getdlopenflags()
    assert controller.asked_by() == "pyslurm 24.5.1"
    assert sys.getdlopenflags() == flags


def test_pyslurm_of_another_version(pyslurm: Path) -> None:
    pyslurm.write_text('__version__ = "24.11.0"\n')
    pyslurm.with_name("__init__.py").write_text("raise AssertionError('imported')\n")
    assert controller.asked_by() == "its commands (pyslurm 24.11.0 is not for Slurm 24.05.4)"


@pytest.mark.parametrize("does", ["raise ImportError('libslurmfull.so')", "raise SystemExit('libslurmfull.so')"])
def test_pyslurm_that_does_not_start(pyslurm: Path, does: str) -> None:
    pyslurm.with_name("__init__.py").write_text(f"import sys\nsys.setdlopenflags(sys.getdlopenflags() ^ 256)\n{does}\n")
    flags = sys.getdlopenflags()
    assert controller.asked_by() == "its commands (pyslurm 24.5.1 can't be imported: libslurmfull.so)"
    assert sys.getdlopenflags() == flags


def test_pyslurm_without_slurm(pyslurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the process."""
    monkeypatch.setattr(controller, "CONF", ())
    assert controller.asked_by() == "its commands (there is no slurm.conf)"


class Bindings:
    """pyslurm, as far as it is asked; `record` is the job that it knows."""

    PyslurmError = RuntimeError

    def __init__(self, **changes: Any) -> None:
        known = {"id": 12, "state": "RUNNING", "requeue_count": 1, "preempt_time": None, "end_time": 1800000000}
        known |= {"suspend_time": None}
        known |= {"time_limit": 60, "partition": "low", "is_batch_job": True, "batch_host": "n1", "num_nodes": 2}
        known |= {"is_requeueable": True, "required_nodes": None, "excluded_nodes": "n3", "constraints": []}
        known |= {"comment": "mine", "array_id": None, "array_task_id": None, "array_tasks_waiting": None}
        self.record = SimpleNamespace(**{**known, **changes})
        self.Job = self

    def load(self, number: int) -> Any:
        if number != 12:
            raise self.PyslurmError("Invalid job id specified")
        return self.record


def test_what_pyslurm_says_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, RECORD)
    asked = library.Library(Bindings())
    assert asked.job(12) == commands.Commands().job(12)
    with pytest.raises(ShimError, match="job 9, by pyslurm: Invalid job id specified"):
        asked.job(9)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"array_id": 12, "array_task_id": 3}, "12_3"),
        ({"array_id": 12}, "12_0"),
        ({"array_id": 12, "array_tasks_waiting": "1-9"}, "12"),
    ],
)
def test_pyslurm_on_arrays(changes: dict[str, Any], name: str) -> None:
    assert library.Library(Bindings(**changes)).job(12)["name"] == name


@pytest.mark.parametrize("changes", [{"id": 13}, {"state": "COMPLETING"}])
def test_what_pyslurm_can_not_say(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """Another of the array; a flag of the state instead of the state."""
    answer(monkeypatch, {**RECORD, "job_state": REQUEUED})
    assert library.Library(Bindings(**changes)).job(12)["states"] == REQUEUED
