"""Estimate how long a checkpoint of all of a job's containers on this node would take.

The job can't go before all of them are written. The estimate is made from the memory that they use and from the speed
that the node has shown so far.
"""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.container import jobs
from oci_criu_shim.container.record import MEASURED, all_of
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.record import Container

RATES = "rates"  # below the checkpoint directory: for each node a file of [bytes, seconds] of its last checkpoints
BASE_SECONDS = 0.5  # of a checkpoint of nothing, at least
FRESH_SECONDS = 5.0
# Less memory tells nothing of the speed, but how long a checkpoint of nothing takes. Much tells as much as three do.
TELLING, LARGE = 64 << 20, 1 << 30
ENOUGH, KEPT = 3, 9  # measurements from which on the site's assumption does not count, and those that are kept


class Estimate:
    """Estimates for the job of `container`, whose checkpoints are below `directory`.

    A node is assumed to write `default` bytes per second until its speed has been measured.
    """

    def __init__(self, container: Container, directory: str, default: int) -> None:
        self.container = container
        self.path = os.path.join(directory, RATES, os.uname().nodename)
        self.default = default
        self.known = (0.0, 0.0)  # when, by the monotonic clock, and seconds

    def seconds(self) -> float:
        """Return the seconds that a checkpoint would take now, or did at most FRESH_SECONDS ago."""
        when, found = self.known
        if time.monotonic() > when + FRESH_SECONDS:
            found = self.seconds_for(self.used())
            self.known = (time.monotonic(), found)
        return found

    def used(self) -> int:
        """Return the bytes of memory of the job's containers on this node."""
        inits = [container.alive("init") for container in jobs.asked(self.container.root)]
        return sum(process.memory(init) for init in inits if init)

    def seconds_for(self, size: int) -> float:
        """Return the seconds that a checkpoint of `size` bytes of memory takes."""
        return self.speed().seconds(size)

    def speed(self) -> Speed:
        """Return the speed of this node."""
        return Speed(_measured(self.path), self.default)

    def measured(self, size: int, begin: float, end: float) -> None:
        """Note that a checkpoint of `size` bytes took from `begin` to `end`, by the monotonic clock.

        The job's other containers had a share of the node's speed meanwhile.
        """
        try:
            files.write_json(self.container.path(MEASURED), [size, begin, end])
            others = (other for other in all_of(self.container.root) if other.name != self.container.name)
            size += sum(_written(other, begin, end) for other in others)
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            found = [*_measured(self.path), (size, end - begin)]
            kinds = [[one for one in found if (one[0] < TELLING) is small][-KEPT:] for small in (True, False)]
            files.write_json(self.path, kinds[0] + kinds[1])
        except OSError:
            pass  # the next one may be noted


def _written(other: Container, begin: float, end: float) -> int:
    """Return how many bytes of another container's last checkpoint were written from `begin` to `end`."""
    try:
        size, its_begin, its_end = files.read_json(other.path(MEASURED))
    except (OSError, ValueError):
        return 0  # it had none
    overlap = min(end, its_end) - max(begin, its_begin)
    return int(size * overlap / (its_end - its_begin)) if overlap > 0 else 0


class Speed:
    """How long a node takes: for each checkpoint `base` seconds, and for its memory by `rate`, in bytes per second.

    They are medians of what was `measured`, (bytes, seconds) of each checkpoint, so that no single slow one counts. The
    assumed `default` rate stands in for measurements that there are not yet.
    """

    def __init__(self, measured: list[tuple[int, float]], default: float) -> None:
        bases = [seconds for size, seconds in measured if size < TELLING]
        self.base = max(_median(bases, BASE_SECONDS), BASE_SECONDS)
        rates = [
            max(size / max(seconds - self.base, 0.1), 1 << 20)
            for size, seconds in measured
            for _ in range(ENOUGH if size >= LARGE else 1)
            if size >= TELLING
        ]
        self.rate = _median(rates, default)

    def seconds(self, size: int) -> float:
        """Return the seconds that a checkpoint of `size` bytes takes."""
        return self.base + size / self.rate


def _median(values: list[float], default: float) -> float:
    found = sorted(values + [default] * (ENOUGH - len(values)))
    return found[(len(found) - 1) // 2]


def _measured(path: str) -> list[tuple[int, float]]:
    """Return what a node's file has; nothing if there is none, or it is an earlier version's."""
    try:
        return [(int(size), float(seconds)) for size, seconds in files.read_json(path)]
    except (OSError, ValueError, TypeError):
        return []


def slowest(directory: str, default: int) -> Speed:
    """Return the lowest speed that a node has shown in a checkpoint directory; the `default` if none has shown any."""
    try:
        names = os.listdir(os.path.join(directory, RATES))
    except OSError:
        names = []
    measured = filter(None, (_measured(os.path.join(directory, RATES, name)) for name in names))
    speeds = [Speed(found, default) for found in measured] or [Speed([], default)]
    return min(speeds, key=lambda speed: speed.rate)


def too_long(what: str, seconds: float, partition: str, grace: int, intervals: bool) -> str:
    """Return the warning that a checkpoint takes longer than the grace time.

    `what` it is of, in words, has the memory; `intervals` says whether there are checkpoints at intervals anyway.
    """
    advice = "" if intervals else "; --checkpoint-interval limits the loss"
    return (
        f"a checkpoint of {what} takes about {seconds:.0f} s, "
        f"but a preemption in partition {partition} gives {grace} s{advice}"
    )
