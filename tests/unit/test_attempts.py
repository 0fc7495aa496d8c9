"""What is wanted of checkpoints is seen to by one child at a time, again if nothing came of it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_criu_shim.container.record import REQUEST, Container
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.log import Log
from oci_criu_shim.supervisor import attempts
from oci_criu_shim.supervisor.attempts import Attempts
from oci_criu_shim.task import schedule
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.policy import FAILED, LOST, NO_REASON, TAKEN, UNKNOWN
from oci_criu_shim.task.preempt import Preemption
from oci_criu_shim.task.schedule import LOOK
from oci_criu_shim.task.take import Taker
from tests.unit.test_loop import UNTIL_DONE, Due, container, fails_once, in_a_child, supervisor, wanting
from tests.unit.test_policy import Make, make

__all__ = ["container", "make"]


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
        status = supervisor(container, wanting(due), script=UNTIL_DONE).run()
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
        status = supervisor(container, wanting(due), script=UNTIL_DONE).run()
        return status if due.ended == [("interval", wanted)] else 1

    assert in_a_child(supervised) == 7


def test_a_checkpoint_waits_for_a_process_to_take_it(
    container: Container, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def supervised() -> int:
        due = Due(container)
        made = supervisor(container, wanting(due), script=UNTIL_DONE)
        takes(monkeypatch, lambda _: TAKEN)
        monkeypatch.setattr(os, "fork", fails_once(os.fork, errno.EAGAIN))
        monkeypatch.setattr(attempts, "RETRY", 0.01)
        status = made.run()
        return status if due.ended == [("interval", 0)] else 1

    assert in_a_child(supervised) == 7
    said = capfd.readouterr().err
    assert "checkpoints of one (interval) has to wait" in said and said.count("\n") == 1


@pytest.fixture
def made(make: Make) -> Attempts:
    return Attempts(make("preempt,timeout,signal:USR1"), Log())


def test_signals_that_want_nothing(made: Attempts) -> None:
    assert not made.take_signal(signal.SIGWINCH)
    assert (made.reasons, made.withheld) == ([], [])


@pytest.mark.parametrize(
    ("number", "result", "passed_on"),
    [
        (signal.SIGTERM, NO_REASON, True),
        (signal.SIGTERM, UNKNOWN, False),  # Slurm is asked again
        (signal.SIGTERM, TAKEN, False),
        (signal.SIGTERM, FAILED, False),
        (signal.SIGTERM, -signal.SIGKILL, False),
        (signal.SIGUSR2, NO_REASON, True),
        (signal.SIGUSR2, TAKEN, False),
        (CHECKPOINT, NO_REASON, False),
    ],
)
def test_the_container_has_its_signal_if_the_job_need_not_go(
    made: Attempts, number: int, result: int, passed_on: bool
) -> None:
    """SIGTERM announces a preemption, or the batch step's own signal (PreemptParameters=send_user_signal)."""
    for _ in range(2):
        assert made.take_signal(number)
    assert made.reasons == [schedule.PREEMPT]
    made.child = 1
    assert made.ended(result) == ([number] if passed_on else [])


def test_the_container_has_its_sigterm_if_slurm_never_answers(made: Attempts) -> None:
    made.take_signal(signal.SIGTERM)
    assert [made.ended(UNKNOWN) for _ in range(attempts.TRIES)] == [[]] * (attempts.TRIES - 1) + [[signal.SIGTERM]]
    assert (made.reasons, made.withheld) == ([], [])


def test_what_is_wanted_meanwhile_waits(made: Attempts) -> None:
    """And is wanted once."""
    Path(made.policy.container.path(REQUEST)).touch()
    for number in (signal.SIGUSR1, CHECKPOINT, signal.SIGUSR1):
        made.take_signal(number)
    assert made.reasons == [schedule.PREEMPT, schedule.SIGNAL, schedule.REQUEST]
    made.child = 1
    assert made.timeout() is None
    made.pursue()
    assert made.child == 1
    assert made.ended(NO_REASON) == []
    assert made.reasons == [schedule.SIGNAL, schedule.REQUEST]
    assert made.timeout() == 0


def test_one_that_is_killed_twice_is_given_up(made: Attempts) -> None:
    made.reasons = [schedule.SIGNAL]
    made.ended(-signal.SIGKILL)
    assert (made.killed, made.reasons) == (True, [schedule.SIGNAL])
    made.ended(-signal.SIGKILL)
    assert (made.killed, made.reasons) == (False, [])


def test_a_retry_is_not_at_once(made: Attempts) -> None:
    made.take_signal(signal.SIGTERM)
    made.take_signal(signal.SIGUSR1)
    made.ended(UNKNOWN)
    assert made.reasons == [schedule.SIGNAL, schedule.PREEMPT]
    assert 0 < (made.timeout() or 0) <= attempts.RETRY
    made.pursue()
    assert made.child is None


@pytest.mark.parametrize("reason", [schedule.PREEMPT, schedule.TIMEOUT, schedule.REQUEST, schedule.LOOK])
@pytest.mark.parametrize("result", [TAKEN, LOST])
def test_who_sees_to_it(made: Attempts, monkeypatch: pytest.MonkeyPatch, reason: str, result: int) -> None:
    """A container that is lost goes on from an older checkpoint."""
    calls: list[str] = []

    def noted(name: str) -> Callable[..., int]:
        def called(_: object, *words: str) -> int:
            calls.append(" ".join([name, *words]))
            return result

        return called

    for kind, name in ((Taker, "look"), (Taker, "run_on"), (Preemption, "go"), (Departure, "lost")):
        monkeypatch.setattr(kind, name, noted(name))
    made.reasons = [reason]
    assert made._work() == result
    wanted = {schedule.LOOK: "look", schedule.REQUEST: "run_on request"}.get(reason, f"go {reason}")
    assert calls == [wanted, *(["lost"] if result == LOST and reason != schedule.LOOK else [])]


@pytest.mark.parametrize(
    ("reasons", "may"), [([schedule.PREEMPT], True), ([schedule.TIMEOUT, LOOK], True), ([LOOK], False)]
)
def test_whether_a_checkpoint_may_end_it(container: Container, reasons: list[str], may: bool) -> None:
    made = wanting(Due(container))
    made.reasons = reasons
    assert not made.may_end_it
    made.child = 1
    assert made.may_end_it == may
