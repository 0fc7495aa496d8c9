"""Where a job's checkpoints are, and what becomes of a job that was started elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import mounts
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import requeue, where
from tests.unit.test_slurm import seen

Capture = pytest.CaptureFixture[str]
HERE = os.uname().nodename


@pytest.fixture
def task() -> Task:
    return Task({"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2"})


@pytest.mark.parametrize(
    ("kind", "nodes", "wanted"),
    [
        ("ext4", [], "ext4"),
        ("ext4", [HERE], "ext4"),
        ("ext4", [HERE, "other"], ""),
        ("overlay", [], "overlay"),
        ("nfs4", [], ""),
        ("fuse.unheard-of", [], ""),
    ],
)
def test_whose_a_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, nodes: list[str], wanted: str
) -> None:
    monkeypatch.setattr(mounts, "read", lambda: mounts.parse(f"1 0 8:1 / / rw - {kind} x rw\n"))
    for node in nodes:
        (tmp_path / "rates").mkdir(exist_ok=True)
        (tmp_path / "rates" / node).touch()
    assert where.own(str(tmp_path), str(tmp_path)) == wanted


def test_where_it_is_noted(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    comments: list[str] = []
    monkeypatch.setattr(controller, "remark", lambda job, mark, text: comments.append(f"mine | {mark}{text}"))
    where.note(task, "/tmp/ck")
    monkeypatch.setattr(controller, "job", lambda _: seen(comment=comments[-1]))
    where.require_here("/tmp/ck", task)
    with pytest.raises(Misfit, match="has nothing of job 7 on n1: its checkpoints were made on n2") as raised:
        where.require_here("/tmp/ck", Task({"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}))
    assert raised.value.home == "n2"


@pytest.mark.parametrize("comment", ["", "mine", "oci-criu-shim: restored from 3"])
def test_nothing_is_noted(task: Task, monkeypatch: pytest.MonkeyPatch, comment: str) -> None:
    monkeypatch.setattr(controller, "job", lambda _: seen(comment=comment))
    where.require_here("/tmp/ck", task)


def test_slurm_does_not_say(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: int) -> None:
        raise ShimError("slurmctld does not answer")

    monkeypatch.setattr(controller, "job", silent)
    where.require_here("/tmp/ck", task)


@pytest.mark.parametrize(
    ("home", "waits", "another", "words"),
    [
        ("n1", True, True, {"require": "n1"}),
        ("n1", False, True, {"exclude": "n2"}),
        ("", True, True, {"exclude": "n2"}),
        ("", True, False, None),
    ],
)
def test_it_goes_on_where_they_are(
    task: Task,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    home: str,
    waits: bool,
    another: bool,
    words: dict[str, str] | None,
) -> None:
    moved: list[dict[str, str]] = []
    monkeypatch.setattr(requeue, "can_wait_for", lambda task, node: waits)
    monkeypatch.setattr(requeue, "has_another_node", lambda task: another)

    def move(root: str, task: Task, log: Log, why: str, **words: str) -> bool:
        moved.append(words)
        return True

    monkeypatch.setattr(requeue, "move", move)
    assert where.go("/run/x/7", task, Log(), Misfit("there is nothing", "do it", home)) is bool(words)
    assert moved == ([words] if words else [])
    said = capfd.readouterr().err
    assert ("error: there is nothing (hint: do it)" in said) is bool(words)
    assert ("job 7 can go to no other node than n2" in said) is not bool(words)


def test_slurm_does_not_answer(task: Task, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    def silent(*_: object) -> bool:
        raise ShimError("no answer")

    monkeypatch.setattr(requeue, "has_another_node", silent)
    assert not where.go("/run/x/7", task, Log(), Misfit("there is nothing"))
    assert (
        "job 7 could not be requeued to another node: no answer (hint: `scontrol requeue 7`" in capfd.readouterr().err
    )
