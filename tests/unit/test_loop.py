"""A supervised container ends with whoever answers for it, and with nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_criu_shim.container.record import Container
from oci_criu_shim.container.stdio import Pipes
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import Signals
from oci_criu_shim.log import Log
from oci_criu_shim.supervisor.attempts import Attempts
from oci_criu_shim.supervisor.loop import Supervisor
from tests.harness.cluster import wait_for

DONE = "done"  # a policy has been told what came of its wish
ENDS = "sleep 0.3; exit 7"
UNTIL_DONE = f"for _ in $(seq 600); do [ ! -e {DONE} ] || exit 7; sleep 0.05; done"


class Due:
    """A policy that wants one checkpoint at once."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.wanted = ["interval"]
        self.ended: list[tuple[str, int]] = []
        self.compressor = self

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

    def at_signal(self, number: int) -> list[str]:
        return []

    def done(self, reason: str, code: int) -> None:
        self.ended.append((reason, code))
        Path(self.container.path(DONE)).touch()


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container(str(tmp_path), "one")
    made.reserve()
    return made


def wanting(due: Due) -> Attempts:
    return Attempts(due, Log())  # type: ignore[arg-type]


def supervisor(
    container: Container,
    attempts: Attempts | None = None,
    owner: int | None = None,
    script: str = ENDS,
) -> Supervisor:
    """Of a program that is just a child; in a child, since it takes over signals and reaps whatever ends."""
    stdio = Pipes()
    main = process.spawn(["/bin/sh", "-c", f"cd {container.directory}; {script}"], os.environ, stdio.inside)
    container.save({"init": process.identity(main)})
    stdio.started()
    return Supervisor(container, main, "", stdio, Signals(), Log(), attempts, owner)


def in_a_child(work: Callable[[], int]) -> int:
    return process.exit_status(process.wait(process.fork(work)))


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(["sleep", "30"])
    yield program
    program.kill()
    program.wait()


@pytest.mark.parametrize("ends", [True, False])
def test_the_owner_ends(container: Container, owner: subprocess.Popen[bytes], ends: bool) -> None:
    def supervised() -> int:
        made = supervisor(container, owner=os.pidfd_open(owner.pid), script="sleep 30" if ends else ENDS)
        if ends:
            os.kill(owner.pid, signal.SIGKILL)
        return made.run()

    assert in_a_child(supervised) == (137 if ends else 7)


def fails_once(function: Callable[..., int], number: int) -> Callable[..., int]:
    """`function`, but for its first call."""
    calls: list[object] = []

    def failing(*words: object, **names: object) -> int:
        calls.append(words)
        if len(calls) == 1:
            raise OSError(number, os.strerror(number))
        return function(*words, **names)

    return failing


def test_the_init_is_noted_once_it_can_be(
    container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def supervised() -> int:
        made = supervisor(container)
        made.pid_file, made.recorded = str(tmp_path / "init.pid"), False
        Path(made.pid_file).write_text(str(made.main))
        container.save({})
        monkeypatch.setattr(container, "save", fails_once(container.save, errno.ENOSPC))  # type: ignore[arg-type]
        status = made.run()
        return status if container.load()["init"][0] == made.main else 1

    assert in_a_child(supervised) == 7
    assert "until it can be noted" in capfd.readouterr().err


def test_nobody_is_busy_while_a_checkpoint_is_taken(container: Container) -> None:
    def waits() -> int:
        attempts = wanting(Due(container))
        made = supervisor(container, attempts)
        before, attempts.child = made._timeout_ms(), made.main
        return int((before, made._timeout_ms()) != (0, None))

    assert in_a_child(waits) == 0


def test_signals_do_not_wait_for_output(container: Container, tmp_path: Path) -> None:
    """Nobody reads what the program writes, which is more than all pipes hold."""
    began, ready, told = (tmp_path / name for name in ("began", "ready", "told"))
    script = f"trap 'kill $!; touch {told}; exit 7' TERM; touch {began}; head -c 1000000 /dev/zero & wait"
    reader, writer = os.pipe()

    def supervised() -> int:
        os.dup2(writer, 1)
        made = supervisor(container, script=script)
        ready.touch()
        return made.run()

    child = process.fork(supervised)
    os.close(writer)
    wait_for(lambda: began.exists() and ready.exists(), 20, "both to take signals")
    limit = time.monotonic() + 20
    while not told.exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
        os.kill(child, signal.SIGTERM)
    while os.read(reader, 1 << 16):
        pass
    assert process.wait(child) == 7


def test_nothing_is_read_while_a_checkpoint_may_end_it(container: Container) -> None:
    """What feeds the input may be gone already, with the job's first node: that is not its end."""

    def supervised() -> int:
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        os.close(writer)
        made = supervisor(container)
        made.attempts = SimpleNamespace(may_end_it=True, timeout=lambda: 0)  # type: ignore[assignment]
        made._wait()
        before = made.stdio.intake.source["ended"]
        made.attempts.may_end_it = False  # type: ignore[misc, union-attr]
        made._wait()
        return int(before or not made.stdio.intake.source["ended"])

    assert in_a_child(supervised) == 0
