"""A supervised container ends with whoever answers for it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from oci_criu_shim import process
from oci_criu_shim.container import Container
from oci_criu_shim.signals import Signals
from oci_criu_shim.stdio import Stdio
from oci_criu_shim.supervise import Supervisor


@pytest.mark.parametrize("ends", [True, False])
def test_the_owner_ends(tmp_path: Path, ends: bool) -> None:
    """Supervised by a child, since it takes over signals and reaps whatever ends."""
    container = Container(str(tmp_path), "one")
    container.reserve()
    owner = subprocess.Popen(["sleep", "30"])

    def supervise() -> int:
        main = process.spawn(["/bin/sh", "-c", "sleep 1; exit 7"], os.environ, {})
        container.save({"init": process.identity(main)})
        pidfd, stdio = os.pidfd_open(owner.pid), Stdio()
        stdio.started()
        supervisor = Supervisor(container, main, "", stdio, Signals(), None, lambda _: 0, pidfd)
        if ends:
            os.kill(owner.pid, signal.SIGKILL)
        return supervisor.run()

    try:
        assert process.exit_status(process.wait(process.fork(supervise))) == (137 if ends else 7)
    finally:
        owner.kill()
        owner.wait()


class Due:
    """A checkpointer that wants one checkpoint at once."""

    def __init__(self) -> None:
        self.wanted = ["interval"]
        self.ended: list[tuple[str, int]] = []
        self.packing = self

    def started(self) -> None:
        """The container runs."""

    def due(self) -> str:
        return self.wanted.pop() if self.wanted else ""

    def begin(self, reason: str) -> None:
        """A child is about to see to it."""

    def stop(self) -> None:
        """Nothing is compressed."""

    def sleep(self) -> float:
        return 60

    def at_signal(self, number: int) -> str:
        return ""

    def done(self, reason: str, code: int) -> None:
        self.ended.append((reason, code))


def test_a_child_that_was_killed_is_followed_by_another_one(tmp_path: Path) -> None:
    container = Container(str(tmp_path), "one")
    container.reserve()
    tried = tmp_path / "tried"

    def take(_: str) -> int:
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def supervise() -> int:
        main = process.spawn(["/bin/sh", "-c", "sleep 1; exit 7"], os.environ, {})
        container.save({"init": process.identity(main)})
        stdio, due = Stdio(), Due()
        stdio.started()
        status = Supervisor(container, main, "", stdio, Signals(), due, take).run()  # type: ignore[arg-type]
        return status if due.ended == [("interval", 0)] else 1

    assert process.exit_status(process.wait(process.fork(supervise))) == 7
