"""When a task's checkpoints are due: what its job asked for (in the grammar of spank/when.c), and what that means."""

from __future__ import annotations

import math
import time

from oci_criu_shim import units
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

AUTO = -1
# What is due: a checkpoint, for that reason, or LOOK: Slurm is asked for the job's limits. The first two end the
# container, and have the job requeued; with the others it runs on.
PREEMPT, TIMEOUT, INTERVAL, SIGNAL, REQUEST, LOOK = "preempt", "timeout", "interval", "signal", "request", "look"
SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "ALRM": 14, "URG": 23}
FIRST_LOOK = 5.0
# A time limit that is changed is found out about after a minute, or a twentieth of what is left of it; what a
# checkpoint would cost now, after a minute or a tenth.
LOOK_SECONDS, LOOKS = 60.0, 20
CHECK_SECONDS, CHECKS = 60.0, 10
LEAST = 0.1  # of the time up to its limit that a run must have for its program, to count as one that got further


class When:
    """`preempt` and `timeout` tell whether, `interval` is in seconds or AUTO, `signal` a number; None: not at all."""

    def __init__(self) -> None:
        self.preempt = False
        self.timeout = False
        self.interval: int | None = None
        self.signal: int | None = None


def parse(text: str, interval: str | None = None) -> When:
    """WHEN of --checkpoint, with that of --checkpoint-interval; ShimError where it is none."""
    when = When()
    for item in text.split(","):
        name, _, value = item.partition(":")
        if item in (PREEMPT, TIMEOUT):
            setattr(when, name, True)
        elif name == INTERVAL:
            when.interval = _interval(value)
        elif name == SIGNAL and value.removeprefix("SIG") in SIGNALS:
            when.signal = SIGNALS[value.removeprefix("SIG")]
        elif item not in ("none", "off"):
            raise ShimError(
                f"{item!r} is not a time for checkpoints",
                f"preempt, timeout, interval:30m, signal:NAME ({', '.join(SIGNALS)}), or none",
            )
    if interval:
        when.interval = _interval(interval)
    return when


def _interval(text: str) -> int:
    try:
        seconds = AUTO if text == "auto" else units.parse_time(text)
    except ValueError:
        seconds = 0
    if not seconds:
        raise ShimError(f"{text!r} is not an interval for checkpoints", "such as 90s, 30m, 2h, or auto")
    return seconds


def best_interval(cost: float, mean_time_between_failures: float) -> float:
    """Young's optimum: seconds between checkpoints that cost `cost` seconds each (CACM 17:9, 1974)."""
    return math.sqrt(2 * max(cost, 0.1) * mean_time_between_failures)


class Schedule:
    """What of `when` is due next.

    `cost` gives the seconds that a checkpoint would take now, `end` is the time limit in seconds since the epoch (0:
    none is known), `margin` seconds are left between a checkpoint and it, `mtbf` is the mean time between failures.
    """

    def __init__(self, when: When, cost: Callable[[], float], end: float, margin: float, mtbf: float) -> None:
        self.when = when
        self.cost = cost
        self.end = end
        self.tried = 0.0  # the time limit before which a checkpoint was tried already
        self.margin = margin
        self.mtbf = mtbf
        now = time.monotonic()
        self.start = self.last = now  # of the program, and its last checkpoint
        self.began, self.took = now, 0.0  # of that: when, and how long
        self.patience = LOOK_SECONDS  # with a Slurm that does not answer what is asked once
        self.look = now + FIRST_LOOK if when.preempt or when.timeout else math.inf

    def started(self) -> None:
        """The program runs."""
        self.start = self.last = time.monotonic()

    def is_futile(self) -> bool:
        """Whether the program has hardly run, and yet its time limit is near: the next run will get as far."""
        ran = time.monotonic() - self.start
        return ran < LEAST * (ran + self.end - time.time())

    def due(self) -> str:
        """What is due, the most urgent first; empty where nothing is."""
        return next((what for seconds, what in self._times() if seconds <= 0), "")

    def sleep(self) -> float:
        """For how many seconds nothing can become due."""
        check = min(CHECK_SECONDS, max(self._rest() / CHECKS, 1))
        return max(min([seconds for seconds, _ in self._times()] + [check]), 0.001)

    def begun(self) -> None:
        """A checkpoint is about to be taken."""
        self.began = time.monotonic()

    def taken(self) -> None:
        """It was taken, or tried."""
        self.last = time.monotonic()
        self.took = self.last - self.began

    def looked(self, end: float | None = None) -> None:
        """Slurm was asked for the time limit; None where it gave no answer."""
        if end is not None:
            self.end = end
        pause = math.inf
        if self.when.timeout:
            pause = max(LOOK_SECONDS, self._rest() / LOOKS)
        elif end is None:
            pause = self.patience
            self.patience *= 2
        self.look = time.monotonic() + pause

    def _times(self) -> list[tuple[float, str]]:
        now = time.monotonic()
        times = [(self._rest(), TIMEOUT), (self.look - now, LOOK)]
        if self.when.interval is not None:
            times.append((self.last + self._interval(self.when.interval) - now, INTERVAL))
        return times

    def _interval(self, seconds: int) -> float:
        """From the end of one to the begin of the next: at least half of its time is left to the program."""
        wanted = best_interval(self.cost(), self.mtbf) if seconds == AUTO else seconds
        return max(wanted, self.took)

    def _rest(self) -> float:
        """The seconds until the job must go, for its checkpoint to be done before the time limit."""
        if not self.when.timeout or self.end in (0, self.tried):
            return math.inf
        return self.end - self.margin - self.cost() - time.time()
