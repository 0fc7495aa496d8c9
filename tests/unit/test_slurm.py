"""What Slurm is asked for, and what its answers are taken for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oci_criu_shim import slurm

UNSET = {"set": False, "infinite": False, "number": 0}


class Slurm:
    """Answers in place of its commands, and notes them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.record: dict[str, Any] = {
            **{"job_id": 12, "job_state": ["RUNNING"], "preempt_time": UNSET, "comment": "", "features": ""},
            **{"array_job_id": {**UNSET, "set": True}, "array_task_id": UNSET, "partition": "low"},
            **{"requeue": True, "batch_flag": True, "required_nodes": "", "excluded_nodes": ""},
            "node_count": number(1),
        }

    def run(self, *argv: str) -> str:
        self.calls.append(" ".join(argv))
        if argv[0] == "sinfo":
            return "n1\nn2\nn3\n"
        return "n2\nn3\n" if argv[2:] == ("hostnames", "n[2-3]") else ""


def number(value: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": value}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    made = Slurm()
    monkeypatch.setattr(slurm, "_run", made.run)
    monkeypatch.setattr(slurm, "_job", lambda _: made.record)
    return made


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        ({}, ["scontrol requeue 12"]),
        ({"job_state": ["PENDING", "COMPLETING"]}, []),
        ({"preempt_time": number(1700000000)}, ["scancel --batch --signal=KILL 12"]),
        ({"array_job_id": number(12), "array_task_id": number(3)}, ["scontrol requeue 12_3"]),
    ],
)
def test_requeue(fake: Slurm, change: dict[str, Any], calls: list[str]) -> None:
    fake.record.update(change)
    slurm.requeue(12)
    assert fake.calls == calls


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
    fake.record["comment"] = before
    slurm.remark(12, "shim: ", "new")
    assert fake.calls == [f"scontrol update JobId=12 Comment={after}"]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"node_count": number(2)}, True),
        ({"node_count": number(3)}, False),
        ({"excluded_nodes": "n[2-3]"}, False),
        ({"required_nodes": "n1"}, False),
        ({"requeue": False}, False),
        ({"batch_flag": False}, False),
    ],
)
def test_another_node(
    fake: Slurm, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], wanted: bool
) -> None:
    monkeypatch.setenv("SINFO_FORMAT", "%C")
    fake.record.update(change)
    assert slurm.has_another_node(12, "n1") is wanted


@pytest.mark.parametrize(
    ("ask", "before", "wanted"),
    [
        (lambda: slurm.excluding(12, "n1"), {}, "ExcNodeList=n1"),
        (lambda: slurm.excluding(12, "n1"), {"excluded_nodes": "n[2-3]"}, "ExcNodeList=n[2-3],n1"),
        (lambda: slurm.wanting(12, "a"), {}, "Features=a"),
        (lambda: slurm.wanting(12, "a"), {"features": "b&c"}, "Features=b&c&a"),
        (lambda: slurm.wanting(12, "a"), {"features": "b|c"}, "Features=(b|c)&a"),
        (lambda: slurm.wanting(12, "a"), {"features": "b&a"}, ""),
    ],
)
def test_updates(fake: Slurm, ask: Callable[[], str], before: dict[str, Any], wanted: str) -> None:
    fake.record.update(before)
    assert ask() == wanted
