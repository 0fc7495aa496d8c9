"""A container whose job must go."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.container import jobs
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import schedule, take
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.policy import FAILED, NO_REASON, UNKNOWN
from oci_criu_shim.task.preempt import Preemption, Stays
from oci_criu_shim.task.take import Taker
from tests.unit.test_policy import Make, make
from tests.unit.test_slurm import seen

__all__ = ["make"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Taker, "connect_early", lambda _: None)


@pytest.mark.parametrize(
    ("error", "status"), [(ShimError("no answer"), UNKNOWN), (Stays("it stays", "requeue it"), FAILED)]
)
def test_no_answer_is_not_an_answer(make: Make, monkeypatch: pytest.MonkeyPatch, error: ShimError, status: int) -> None:
    def why(*_: object) -> str:
        raise error

    monkeypatch.setattr(Preemption, "_why", why)
    assert Preemption(make("timeout")).go(schedule.TIMEOUT) == status


@pytest.mark.parametrize(("older", "calls"), [(True, [7]), (False, [])])
def test_a_dump_that_fails_before_the_time_limit(
    make: Make, monkeypatch: pytest.MonkeyPatch, older: bool, calls: list[int]
) -> None:
    """The job goes on from an older checkpoint, once it has had its time."""
    requeued: list[int] = []

    def dump(*_: object) -> str:
        raise ShimError("it can't be dumped")

    made = make("timeout")
    if older:
        os.makedirs(f"{made.store.path}/1")
    monkeypatch.setattr(Preemption, "_why", lambda *_: schedule.TIMEOUT)
    monkeypatch.setattr(jobs, "asked", lambda _: [made.container])
    monkeypatch.setattr(Taker, "dump", dump)
    monkeypatch.setattr(take, "ENDING_MS", 0)
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen())
    monkeypatch.setattr(controller, "requeue_before_limit", requeued.append)
    monkeypatch.setattr("oci_criu_shim.config.load", lambda: SimpleNamespace(feature=""))
    assert Preemption(made).go(schedule.TIMEOUT) == FAILED
    assert requeued == calls
    assert RunDirectory(made.container.root).is_requeued is older


def test_a_run_directory_that_is_full(make: Make, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made = make("timeout")
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen())
    monkeypatch.setattr(type(made), "note_limits", full)
    assert Preemption(made).go(schedule.TIMEOUT) == UNKNOWN
    monkeypatch.setattr(jobs, "asked", full)
    Departure(made).mark(schedule.TIMEOUT, "taken")
    said = capfd.readouterr().err.splitlines()
    assert [line.endswith("No space left on device") for line in said] == [True, True]


@pytest.mark.parametrize(
    ("when", "changes", "told"),
    [
        ("preempt", {}, True),
        ("preempt", {"states": ["CANCELLED", "COMPLETING"]}, False),
        ("preempt", {"requeue": False}, False),
        ("preempt", {"batch": False}, False),
        ("preempt,timeout", {}, False),
    ],
)
@pytest.mark.parametrize("older", [True, False])
def test_a_time_limit_that_need_not_have_ended_it(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    when: str,
    changes: dict[str, Any],
    told: bool,
    older: bool,
) -> None:
    made = make(when)
    if older:
        os.makedirs(f"{made.store.path}/4")
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen(**{"states": ["TIMEOUT", "COMPLETING"], **changes}))
    assert Preemption(made).go(schedule.PREEMPT) == NO_REASON
    said = capfd.readouterr().err
    would = "job 7 ends by its time limit: with `timeout` in --checkpoint it would have been checkpointed and requeued"
    assert (would in said, "--restart-dir=7 goes on from checkpoint 4" in said) == (told, told and older)
