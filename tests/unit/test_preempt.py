"""A job that must go, and its containers on this node."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import controller, tasks
from oci_criu_shim.task import preempt, requeue, schedule, take
from oci_criu_shim.task.policy import FAILED, UNKNOWN
from tests.unit.test_policy import Make, make
from tests.unit.test_slurm import seen

__all__ = ["make"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take, "connect_early", lambda _: None)


def neighbour(root: Path) -> Container:
    """A container of the job's whose checkpoints were asked for."""
    made = Container(str(root), "neighbour")
    made.reserve()
    environment = ["SLURM_JOB_ID=7", "SLURM_CHECKPOINT=preempt"]
    config = {"process": {"env": environment}}
    made.save({"bundle": "/", "config": config, "supervisor": process.identity(os.getpid())})
    return made


def test_one_that_ends_meanwhile_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [neighbour(tmp_path).load()]

    def load(_: Container) -> dict[str, Any]:
        return records.pop() if records else {}

    monkeypatch.setattr(Container, "load", load)
    preempt._have_all_go(Container(str(tmp_path), "one"))
    assert list(tasks.asked(str(tmp_path))) == []


@pytest.mark.parametrize(
    ("error", "status"), [(ShimError("no answer"), UNKNOWN), (preempt.Stays("it stays", "requeue it"), FAILED)]
)
def test_no_answer_is_not_an_answer(make: Make, monkeypatch: pytest.MonkeyPatch, error: ShimError, status: int) -> None:
    def why(*_: object) -> str:
        raise error

    monkeypatch.setattr(preempt, "_why", why)
    assert preempt.go(make("timeout"), schedule.TIMEOUT) == status


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
    monkeypatch.setattr(preempt, "_why", lambda *_: schedule.TIMEOUT)
    monkeypatch.setattr(tasks, "asked", lambda _: [made.container])
    monkeypatch.setattr(take, "dump", dump)
    monkeypatch.setattr(take, "ENDING_MS", 0)
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen())
    monkeypatch.setattr(controller, "requeue_before_limit", requeued.append)
    monkeypatch.setattr("oci_criu_shim.config.load", lambda: SimpleNamespace(feature=""))
    assert preempt.go(made, schedule.TIMEOUT) == FAILED
    assert requeued == calls
    assert os.path.exists(os.path.join(made.container.root, requeue.MARK)) is older


def test_a_run_directory_that_is_full(make: Make, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made = make("timeout")
    monkeypatch.setattr(controller, "job", lambda *_, **__: seen())
    monkeypatch.setattr(type(made), "note_limits", full)
    assert preempt.go(made, schedule.TIMEOUT) == UNKNOWN
    monkeypatch.setattr(tasks, "asked", full)
    preempt.mark(made, schedule.TIMEOUT, "taken")
    said = capfd.readouterr().err.splitlines()
    assert [line.endswith("No space left on device") for line in said] == [True, True]
