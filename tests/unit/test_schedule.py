"""When checkpoints are due."""

from __future__ import annotations

import math

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.task import schedule
from oci_criu_shim.task.schedule import Schedule
from oci_criu_shim.when import AUTO, parse


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def made(text: str, end: float = 0, cost: float = 5, margin: float = 10, mtbf: float = 1000) -> Schedule:
    return Schedule(parse(text), lambda: cost, end, margin, mtbf)


@pytest.mark.parametrize(
    ("text", "interval", "wanted"),
    [
        ("preempt", None, (True, False, None, None)),
        ("preempt,timeout", None, (True, True, None, None)),
        ("interval:30m,signal:USR1", None, (False, False, 1800, 10)),
        ("signal:SIGHUP", "90s", (False, False, 90, 1)),
        ("interval:00:30:00,preempt", None, (True, False, 1800, None)),
        ("interval:30m", "auto", (False, False, AUTO, None)),
        ("none", None, (False, False, None, None)),
        ("off", None, (False, False, None, None)),
    ],
)
def test_grammar(text: str, interval: str | None, wanted: tuple[object, ...]) -> None:
    found = parse(text, interval)
    assert (found.preempt, found.timeout, found.interval, found.signal) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "Preempt", "preempt,", "timeout:1", "interval", "interval:30x", "interval:0s", "signal:TERM", "signal:"],
)
def test_not_a_time(text: str) -> None:
    with pytest.raises(ShimError, match=r"is no value of --checkpoint|is not an interval for"):
        parse(text)


def test_a_long_job_is_left_alone(clock: Clock) -> None:
    """Each wake-up disturbs it."""
    some = made("preempt")
    some.looked(0)
    pauses = []
    for _ in range(9):
        pauses.append(some.sleep())
        clock.now += pauses[-1]
    assert pauses == [60, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_youngs_optimum() -> None:
    assert schedule.best_interval(50, 3600) == 600
    assert schedule.best_interval(0, 3600) > 0


def test_interval(clock: Clock) -> None:
    every = made("interval:20s")
    every.looked(0)
    assert (every.due(), every.sleep()) == ("", 20)
    clock.now += 20
    assert every.due() == schedule.INTERVAL
    every.taken()
    assert (every.due(), every.sleep()) == ("", 20)


def test_half_of_the_time_is_the_programs(clock: Clock) -> None:
    every = made("interval:20s")
    every.looked(0)
    clock.now += 20
    every.begun()
    clock.now += 30
    every.taken()
    assert (every.due(), every.sleep()) == ("", 30)
    clock.now += 30
    assert every.due() == schedule.INTERVAL
    every.begun()
    clock.now += 10
    every.taken()
    assert every.sleep() == 20


def test_best_interval_follows_the_cost(clock: Clock) -> None:
    cost = [50.0]
    every = Schedule(parse("interval:auto"), lambda: cost[0], 0, 0, 3600)
    every.looked(0)
    clock.now += 599
    assert every.due() == ""
    cost[0] = 40
    assert every.due() == schedule.INTERVAL


def test_time_limit_is_looked_at_and_kept(clock: Clock) -> None:
    limited = made("timeout", end=2000)
    clock.now += schedule.FIRST_LOOK
    assert limited.due() == schedule.LOOK
    limited.looked(1100)
    assert limited.due() == ""
    clock.now = 1085
    assert limited.due() == schedule.TIMEOUT
    limited.looked(1200)
    assert limited.due() == ""
    clock.now = 1185
    assert limited.due() == schedule.TIMEOUT


@pytest.mark.parametrize(("ran", "futile"), [(9, True), (11, False)])
def test_a_run_that_gets_no_further(clock: Clock, ran: int, futile: bool) -> None:
    """The time before its program ran does not count."""
    limited = made("timeout", end=clock.now + 150)
    clock.now += 50
    limited.started()
    clock.now += ran
    assert limited.is_futile() is futile


def test_a_time_limit_is_tried_once(clock: Clock) -> None:
    limited = made("timeout", end=1000)
    assert limited.due() == schedule.TIMEOUT
    limited.tried = limited.end
    limited.looked(1000)
    assert limited.due() == ""
    limited.looked(1010)
    assert limited.due() == schedule.TIMEOUT


def test_looks_come_closer_with_the_limit(clock: Clock) -> None:
    limited = made("timeout")
    pauses = []
    for rest in (100_000, 1000, 100, 10):
        limited.looked(clock.now + rest + 15)
        pauses.append((limited.look - clock.now, limited.sleep()))
    assert pauses == [(5000, 60), (60, 60), (60, 10), (60, 1)]


def test_no_limit(clock: Clock) -> None:
    unlimited = made("timeout", end=0)
    clock.now += 1e6
    unlimited.looked(0)
    assert unlimited.due() == ""


def test_preemption_alone_looks_until_slurm_has_answered(clock: Clock) -> None:
    alone = made("preempt")
    clock.now += schedule.FIRST_LOOK
    assert alone.due() == schedule.LOOK
    for silent in (60, 120, 240):  # longer and longer, as Slurm may have no answer for anybody
        alone.looked()
        assert alone.look == clock.now + silent
        clock.now = alone.look
        assert alone.due() == schedule.LOOK
    alone.looked(0)
    assert (alone.look, alone.due()) == (math.inf, "")


def test_a_signal_alone_has_no_time(clock: Clock) -> None:
    """It is looked at once, for what can be said of its checkpoints."""
    alone = made("signal:USR1")
    clock.now += schedule.FIRST_LOOK
    assert alone.due() == schedule.LOOK
    alone.looked(0)
    clock.now += 1e6
    assert alone.due() == ""
