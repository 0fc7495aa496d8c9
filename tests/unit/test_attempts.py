"""What is wanted of checkpoints is seen to by one child at a time, again if nothing came of it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_criu_shim.container.record import Container
from oci_criu_shim.host import process
from oci_criu_shim.supervisor import attempts
from oci_criu_shim.task.policy import TAKEN, UNKNOWN
from tests.unit.test_loop import Due, container, fails_once, in_a_child, supervisor, wanting

__all__ = ["container"]


def takes(monkeypatch: pytest.MonkeyPatch, take: Callable[[str], int]) -> None:
    """Have a child do that for a checkpoint beside the running program."""

    class Fake:
        def __init__(self, _: object) -> None:
            self.run_on = take

    monkeypatch.setattr("oci_criu_shim.task.take.Taker", Fake)


def test_a_child_that_was_killed_is_followed_by_another_one(
    container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once CRIU has let go of the container."""
    tried = tmp_path / "tried"
    tracers = [42, 42, 0]

    def take(_: str) -> int:
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return len(tracers)

    def supervised() -> int:
        takes(monkeypatch, take)
        monkeypatch.setattr(process, "tracer", lambda _: tracers.pop(0))
        monkeypatch.setattr(attempts, "PAUSE", 0.01)
        due = Due(container)
        status = supervisor(container, wanting(due)).run()
        return status if due.ended == [("interval", 0)] else 1

    assert in_a_child(supervised) == 7


@pytest.mark.parametrize(("tries", "wanted"), [(10, 0), (2, UNKNOWN)])
def test_slurm_is_asked_again_for_a_while(
    container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int, wanted: int
) -> None:
    asked = tmp_path / "asked"

    def take(_: str) -> int:
        with asked.open("a") as stream:
            stream.write("x")
        return UNKNOWN if asked.stat().st_size < 3 else 0

    def supervised() -> int:
        takes(monkeypatch, take)
        monkeypatch.setattr(attempts, "RETRY", 0.01)
        monkeypatch.setattr(attempts, "TRIES", tries)
        due = Due(container)
        status = supervisor(container, wanting(due)).run()
        return status if due.ended == [("interval", wanted)] else 1

    assert in_a_child(supervised) == 7


def test_a_checkpoint_waits_for_a_process_to_take_it(
    container: Container, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def supervised() -> int:
        due = Due(container)
        made = supervisor(container, wanting(due))
        takes(monkeypatch, lambda _: TAKEN)
        monkeypatch.setattr(os, "fork", fails_once(os.fork, errno.EAGAIN))
        monkeypatch.setattr(attempts, "RETRY", 0.01)
        status = made.run()
        return status if due.ended == [("interval", 0)] else 1

    assert in_a_child(supervised) == 7
    said = capfd.readouterr().err
    assert "checkpoints of one (interval) has to wait" in said and said.count("\n") == 1
