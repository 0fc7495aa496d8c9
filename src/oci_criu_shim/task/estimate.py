"""How long the checkpoint of a job's containers on this node would take: from the memory that they use, and the node's
speed so far. All of them have to be written before the job can go."""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.container import jobs
from oci_criu_shim.container.record import all_of
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.record import Container

RATES = "rates"  # below the checkpoint directory: a file for each node, of bytes per second
MEASURED = "measured"  # in a container's directory: bytes, begin and end of its last checkpoint
BASE_SECONDS = 0.5  # of a checkpoint of nothing
FRESH_SECONDS = 5.0


class Estimate:
    """For the job of `container`; `default` bytes are written a second where this node has not shown its speed."""

    def __init__(self, container: Container, directory: str, default: int) -> None:
        self.container = container
        self.path = os.path.join(directory, RATES, os.uname().nodename)
        self.default = default
        self.known = (0.0, 0.0)

    def seconds(self) -> float:
        """What a checkpoint would take now; at most FRESH_SECONDS old."""
        when, found = self.known
        if time.monotonic() > when + FRESH_SECONDS:
            inits = [container.alive("init") for container in jobs.asked(self.container.root)]
            found = self.seconds_for(sum(memory(init) for init in inits if init))
            self.known = (time.monotonic(), found)
        return found

    def seconds_for(self, size: int) -> float:
        """Seconds for `size` bytes of memory."""
        return seconds(size, self.rate())

    def rate(self) -> float:
        """Bytes per second."""
        return _rate(self.path) or self.default

    def measured(self, size: int, begin: float, end: float) -> None:
        """A checkpoint of `size` bytes took so long, by the monotonic clock. Of the node's speed, the job's other
        containers had their share meanwhile. Small ones say little of it."""
        try:
            files.write_json(self.container.path(MEASURED), [size, begin, end])
            others = (other for other in all_of(self.container.root) if other.name != self.container.name)
            size += sum(_written(other, begin, end) for other in others)
            if size < 16 << 20:
                return
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            files.write_atomically(self.path, str(int(size / max(end - begin - BASE_SECONDS, 0.1))).encode())
        except OSError:
            pass  # the next one may


def _written(other: Container, begin: float, end: float) -> int:
    """How many bytes of another container's last checkpoint were written then."""
    try:
        size, its_begin, its_end = files.read_json(other.path(MEASURED))
    except (OSError, ValueError):
        return 0  # it had none
    overlap = min(end, its_end) - max(begin, its_begin)
    return int(size * overlap / (its_end - its_begin)) if overlap > 0 else 0


def seconds(size: int, rate: float) -> float:
    """Of a checkpoint of `size` bytes, at `rate` bytes per second."""
    return BASE_SECONDS + size / rate


def _rate(path: str) -> float:
    """What a node's file says; 0 where it says nothing."""
    try:
        return max(files.read_number(path), 1 << 20)
    except (OSError, ValueError):
        return 0


def slowest(directory: str, default: int) -> float:
    """The speed of the slowest node that has shown its own in a checkpoint directory; `default` where none has."""
    try:
        names = os.listdir(os.path.join(directory, RATES))
    except OSError:
        names = []
    return min(filter(None, (_rate(os.path.join(directory, RATES, name)) for name in names)), default=default)


def too_long(what: str, seconds: float, partition: str, grace: int, intervals: bool) -> str:
    """The warning: `what` is of which memory, and `intervals` whether there are checkpoints at intervals anyway."""
    advice = "" if intervals else "; --checkpoint-interval limits the loss"
    return (
        f"{what} a checkpoint takes about {seconds:.0f} s, "
        f"and a preemption in partition {partition} gives {grace} s{advice}"
    )


def memory(init: int) -> int:
    """Bytes of memory that the processes from `init` on have of their own or share; what they map of files is left
    out."""
    return sum(map(_own, process.tree(init)))


def _own(pid: int) -> int:
    try:
        status = process.status(pid)
    except ProcessLookupError:
        return 0
    return sum(int(status[name][0]) * 1024 for name in ("RssAnon", "RssShmem", "VmSwap") if name in status)
