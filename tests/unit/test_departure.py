"""A job that must go, and its containers on this node."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from oci_criu_shim.container import jobs
from oci_criu_shim.container.record import DONE, Container
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.slurm import controller, grace
from oci_criu_shim.slurm.rundir import REQUEUEING, RunDirectory
from oci_criu_shim.task import history, requeue, schedule
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.history import History
from tests.unit.test_policy import ASKED, Make, make, record
from tests.unit.test_slurm import seen

if TYPE_CHECKING:
    from oci_criu_shim.container.record import Record

__all__ = ["make"]


def neighbour(departure: Departure, supervisor: int | None = None) -> Container:
    """Another container of the job's whose checkpoints were asked for."""
    made = Container(departure.container.root, "neighbour")
    made.reserve()
    made.save(record(os.getpid(), supervisor or os.getpid(), ASKED))
    return made


def test_one_that_ends_meanwhile_is_in_nobodys_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    departure = Departure(make("preempt"))
    departure.container.release()
    records = [neighbour(departure).load()]

    def load(_: Container) -> Record:
        return records.pop() if records else {}

    monkeypatch.setattr(Container, "load", load)
    departure.have_all_go()
    assert list(jobs.asked(departure.directory.path)) == []


@pytest.mark.parametrize(
    ("older", "requeueable", "marked"),
    [(True, True, [(schedule.TIMEOUT, "taken")]), (True, False, []), (False, True, [])],
)
def test_what_is_lost_goes_on_from_an_older_one(
    make: Make, monkeypatch: pytest.MonkeyPatch, older: bool, requeueable: bool, marked: list[tuple[str, str]]
) -> None:
    policy, marks = make("preempt,interval:1h"), list[tuple[str, str]]()
    monkeypatch.setattr(Departure, "mark", lambda _, *words: marks.append(words))
    monkeypatch.setattr(controller, "job", lambda _: seen(requeue=requeueable))
    if older:
        os.makedirs(f"{policy.store.path}/1")
    Departure(policy).lost()
    assert marks == marked
    assert Path(policy.container.path(DONE)).read_text() == "lost"
    assert RunDirectory(policy.container.root).time_is_up is bool(marked)


def test_all_are_told_to_go(make: Make) -> None:
    """But for the container itself, which knows."""
    departure = Departure(make("timeout"))
    with subprocess.Popen(["sleep", "60"]) as other:
        neighbour(departure, other.pid)
        departure.have_all_go()
        assert other.wait() == -CHECKPOINT
    assert departure.directory.time_is_up


BATCH: dict[str, str] = {}
STEP = {"SLURM_STEP_ID": "0"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Slurm is told of the job, which has a batch script."""
    told: list[str] = []
    for name in ("requeue", "end_batch_step", "end_batch_step_after_grace", "requeue_before_limit"):
        monkeypatch.setattr(controller, name, lambda job, *_, name=name: told.append(f"{name} {job}"))
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen())
    monkeypatch.setattr("oci_criu_shim.config.load", lambda: SimpleNamespace(feature=""))
    return told


@pytest.mark.parametrize(
    ("step", "why", "words", "told"),
    [
        (STEP, schedule.PREEMPT, ("taken", "taken"), ["requeue 7"]),
        (BATCH, schedule.PREEMPT, ("taken", "taken"), []),  # Slurm requeues it
        (STEP, schedule.TIMEOUT, ("taken", "ended"), ["requeue 7"]),
        (BATCH, schedule.TIMEOUT, ("ended", "taken"), ["requeue 7"]),
        (STEP, schedule.PREEMPT, ("failed", "taken"), ["end_batch_step_after_grace 7"]),
        (STEP, schedule.PREEMPT, ("taken", "stuck"), ["end_batch_step_after_grace 7"]),
        (STEP, schedule.TIMEOUT, ("taken", "failed"), ["requeue_before_limit 7"]),
    ],
)
def test_the_last_to_be_ready_has_the_job_requeued(
    make: Make, calls: list[str], step: dict[str, str], why: str, words: tuple[str, str], told: list[str]
) -> None:
    departure = Departure(make("preempt,timeout", step))
    other = neighbour(departure)
    departure.mark(why, words[0])
    assert Path(departure.container.path(DONE)).read_text() == words[0]
    assert (calls, departure.directory.is_requeued) == ([], False)
    Path(other.path(DONE)).write_text(words[1])
    departure.mark(why, words[0])
    assert (calls, departure.directory.is_requeued) == (told, True)


@pytest.mark.parametrize(
    ("words", "goes"), [(("taken", "stuck"), False), (("ended", "ended"), False), (("taken", "taken"), True)]
)
def test_a_job_that_keeps_the_time_that_it_has(
    make: Make, calls: list[str], words: tuple[str, str], goes: bool
) -> None:
    """It would start again from no checkpoint, or has nothing to start again for."""
    departure = Departure(make("timeout"))
    Path(neighbour(departure).path(DONE)).write_text(words[1])
    departure.mark(schedule.TIMEOUT, words[0])
    assert (calls, departure.directory.is_requeued) == (["requeue 7"] if goes else [], goes)


def test_a_job_is_requeued_once(make: Make, calls: list[str]) -> None:
    departure = Departure(make("timeout"))
    for _ in range(2):
        departure.mark(schedule.TIMEOUT, "taken")
    assert calls == ["requeue 7"]


def test_a_job_without_a_batch_script(
    make: Make, calls: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen(batch=False))
    departure = Departure(make("preempt", STEP))
    departure.mark(schedule.PREEMPT, "failed")
    assert capfd.readouterr().err == ""
    departure.mark(schedule.PREEMPT, "taken")
    said = "job 7 is not requeued (it has no batch script): a job with --restart-dir=7 goes on from here"
    assert said in capfd.readouterr().err
    assert (calls, departure.directory.is_requeued) == ([], False)


@pytest.mark.parametrize(("step", "told"), [(STEP, ["end_batch_step 12"]), (BATCH, [])])
def test_a_job_that_slurm_does_not_requeue(
    make: Make, calls: list[str], monkeypatch: pytest.MonkeyPatch, step: dict[str, str], told: list[str]
) -> None:
    """Its script doesn't go on. If nothing was taken, it has the time that is left."""
    monkeypatch.setattr(grace, "fate", lambda _: grace.Fate("PreemptMode=CANCEL"))
    policy = make("preempt", step)
    policy.log = History(policy.log, policy.store.directory, policy.task)
    departure = Departure(policy)
    departure.mark(schedule.PREEMPT, "failed")
    assert calls == []
    departure.mark(schedule.PREEMPT, "taken")
    assert (calls, departure.directory.is_requeued) == (told, False)
    (event,) = history.read(policy.store.directory, 7)[policy.task.key.partition("/")[2]]
    wanted = "PreemptMode=CANCEL: a job with --restart-dir=7 goes on from here"
    assert (event["event"], event["reason"]) == ("not-requeued", wanted)


@pytest.mark.parametrize(
    ("count", "said"), [(4, "may start it once more, to give its exit status"), (5, "may hold it until an admin")]
)
def test_a_requeue_that_slurm_is_not_to_count(
    make: Make,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    count: int,
    said: str,
) -> None:
    """Slurm is asked for it although its script ends; after a dump that failed it does that of its own accord."""
    monkeypatch.setattr(grace, "fate", lambda _: grace.Fate(count=count))
    policy = make("preempt")
    policy.log = History(policy.log, policy.store.directory, policy.task)
    departure = Departure(policy)
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen(preempt_time=9))
    departure.mark(schedule.PREEMPT, "failed")
    assert (calls, departure.directory.is_requeued) == ([], True)
    departure.mark(schedule.PREEMPT, "taken")
    assert calls == ["requeue 7"]
    assert f"job 7, uncounted (MaxBatchRequeue=5): when it has ended, Slurm {said}" in capfd.readouterr().err
    assert [event["counted"] for event in history.read(policy.store.directory, 7)["batch.0"]] == ["no", "no"]


def test_a_job_whose_last_preemption_was_not_counted(
    make: Make, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That holds after a time limit as well."""
    found, again = seen(), list[bool]()
    monkeypatch.setattr(controller, "job", lambda *_, **__: found)
    for count in (3, 4, 0, 4, 0, 3):
        found = seen(preempt_time=9) if count else seen()
        monkeypatch.setattr(grace, "fate", lambda _, count=count: grace.Fate(count=count))
        policy = make("preempt,timeout", {"SLURM_RESTART_COUNT": str(len(again))})
        policy.log = History(policy.log, policy.store.directory, policy.task)
        departure = Departure(policy)
        departure.mark(schedule.PREEMPT if count else schedule.TIMEOUT, "taken")
        Path(departure.directory.file(REQUEUEING)).unlink()
        again.append(requeue.comes_again(policy.store.directory, policy.task))
    assert again == [False, True, True, True, True, False]
