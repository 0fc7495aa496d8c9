"""Compute when a task's checkpoints are due."""

from __future__ import annotations

import math
import time

from oci_criu_shim.when import AUTO, INTERVAL, PREEMPT, SIGNAL, TIMEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.when import When

# More reasons for a checkpoint than WHEN names.
REQUEST, MIGRATE = "request", "migrate"
# What a child may be for besides: Slurm is to be asked for the job's limits; the hook is to be told of a restore.
LOOK, RESTORED = "look", "restored"
ASIDE = (LOOK, RESTORED)
__all__ = ["ASIDE", "INTERVAL", "LOOK", "MIGRATE", "PREEMPT", "REQUEST", "RESTORED", "SIGNAL", "TIMEOUT"]
__all__ += ["Schedule", "best_interval"]
FIRST_LOOK = 5.0
# The time limit is asked for again after a minute, or a twentieth of what is left of it if that is more. The cost of a
# checkpoint is computed again when the program has run twice as long, but after a minute at least, an hour at most, and
# a tenth of what is left.
LOOK_SECONDS, LOOKS = 60.0, 20
CHECK_SECONDS, CHECK_SECONDS_AT_MOST, CHECKS = 60.0, 3600.0, 10
PARTS = 10  # of an interval; a checkpoint may wait for one of them, so that an interval is hardly longer
LEAST = 0.1  # share of the time up to its limit for which a program must run, or its run counts as futile


def best_interval(cost: float, mean_time_between_failures: float) -> float:
    """Return Young's optimum: the seconds between checkpoints that cost `cost` seconds each (CACM 17:9, 1974)."""
    return math.sqrt(2 * max(cost, 0.1) * mean_time_between_failures)


class Schedule:
    """Says which of the times of `when` comes next.

    `cost` returns the seconds that a checkpoint would take now. `end` is the time limit, in seconds since the epoch; 0
    if none is known. `margin` is the number of seconds between a checkpoint and the time limit, `mtbf` the mean time
    between failures, in seconds.
    """

    def __init__(self, when: When, cost: Callable[[], float], end: float, margin: float, mtbf: float) -> None:
        self.when = when
        self.cost = cost
        self.end = end
        self.tried = 0.0  # the time limit before which a checkpoint was tried already
        self.margin = margin
        self.mtbf = mtbf
        now = time.monotonic()
        self.start = self.last = now  # of the program, and of the last checkpoint
        self.began, self.took = now, 0.0  # when the last checkpoint began, and how long it took
        self.patience = LOOK_SECONDS  # seconds until Slurm is asked again, if it gave no answer
        self.look = now + FIRST_LOOK

    def started(self) -> None:
        """Note that the program runs."""
        self.start = self.last = time.monotonic()

    def is_futile(self) -> bool:
        """Whether the program has hardly run, and yet its time limit is near: the next run will get no further."""
        ran = time.monotonic() - self.start
        return ran < LEAST * (ran + self.end - time.time())

    def due(self) -> str:
        """Return the most urgent reason that is due; an empty string if none is."""
        return next((what for seconds, what in self._times() if seconds <= 0), "")

    def sleep(self) -> float:
        """Return for how many seconds nothing can become due."""
        ran = time.monotonic() - self.start
        check = min(max(CHECK_SECONDS, ran), CHECK_SECONDS_AT_MOST, max(self._rest() / CHECKS, 1))
        return max(min([seconds for seconds, _ in self._times()] + [check]), 0.001)

    def spare(self) -> float:
        """Return for how many seconds a checkpoint that is due by its interval may wait; 0 or less if it may not."""
        return min((time.monotonic() - self.last) / PARTS, self._rest() - self.cost())

    def begun(self) -> None:
        """Note that a checkpoint is about to be taken."""
        self.began = time.monotonic()

    def taken(self) -> None:
        """Note that the checkpoint was taken, or tried."""
        self.last = time.monotonic()
        self.took = self.last - self.began

    def looked(self, end: float | None = None) -> None:
        """Note that Slurm was asked for the time limit, which is `end`; None if it gave no answer."""
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
        """Return the seconds from one checkpoint's end to the next one's begin.

        They leave the program at least half of the time.
        """
        wanted = best_interval(self.cost(), self.mtbf) if seconds == AUTO else seconds
        return max(wanted, self.took)

    def _rest(self) -> float:
        """Return the seconds until a checkpoint must begin to be done before the time limit."""
        if not self.when.timeout or self.end in (0, self.tried):
            return math.inf
        return self.end - self.margin - self.cost() - time.time()
