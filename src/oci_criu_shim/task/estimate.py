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

RATES = "rates"  # below the checkpoint directory: a file for each node, of bytes per second
BASE_SECONDS = 0.5  # of a checkpoint of nothing
FRESH_SECONDS = 5.0


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
            inits = [container.alive("init") for container in jobs.asked(self.container.root)]
            found = self.seconds_for(sum(memory(init) for init in inits if init))
            self.known = (time.monotonic(), found)
        return found

    def seconds_for(self, size: int) -> float:
        """Return the seconds that a checkpoint of `size` bytes of memory takes."""
        return seconds(size, self.rate())

    def rate(self) -> float:
        """Return the speed of this node in bytes per second."""
        return _rate(self.path) or self.default

    def measured(self, size: int, begin: float, end: float) -> None:
        """Note that a checkpoint of `size` bytes took from `begin` to `end`, by the monotonic clock.

        The job's other containers had a share of the node's speed meanwhile. Small checkpoints say little of it.
        """
        try:
            files.write_json(self.container.path(MEASURED), [size, begin, end])
            others = (other for other in all_of(self.container.root) if other.name != self.container.name)
            size += sum(_written(other, begin, end) for other in others)
            if size < 16 << 20:
                return
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            files.write_atomically(self.path, str(int(size / max(end - begin - BASE_SECONDS, 0.1))).encode())
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


def seconds(size: int, rate: float) -> float:
    """Return the seconds that a checkpoint of `size` bytes takes at `rate` bytes per second."""
    return BASE_SECONDS + size / rate


def _rate(path: str) -> float:
    """Return the speed in a node's file, in bytes per second; 0 if there is none."""
    try:
        return max(files.read_number(path), 1 << 20)
    except (OSError, ValueError):
        return 0


def slowest(directory: str, default: int) -> float:
    """Return the lowest speed that a node has shown in a checkpoint directory; `default` if none has shown any."""
    try:
        names = os.listdir(os.path.join(directory, RATES))
    except OSError:
        names = []
    return min(filter(None, (_rate(os.path.join(directory, RATES, name)) for name in names)), default=default)


def too_long(what: str, seconds: float, partition: str, grace: int, intervals: bool) -> str:
    """Return the warning that a checkpoint takes longer than the grace time.

    It begins with `what`, which names the memory; `intervals` says whether there are checkpoints at intervals anyway.
    """
    advice = "" if intervals else "; --checkpoint-interval limits the loss"
    return (
        f"{what} a checkpoint takes about {seconds:.0f} s, "
        f"and a preemption in partition {partition} gives {grace} s{advice}"
    )


def memory(init: int) -> int:
    """Return the bytes of memory of the processes from `init` on, shared memory included, mapped files left out."""
    return sum(map(_own, process.tree(init)))


def _own(pid: int) -> int:
    try:
        status = process.status(pid)
    except ProcessLookupError:
        return 0
    return sum(int(status[name][0]) * 1024 for name in ("RssAnon", "RssShmem", "VmSwap") if name in status)
