"""Find out beforehand if a dump is sooner on a shared file system if its memory is compressed on the way there.

It is if that is slow, and the memory is not random. Both are tried, with a little of each, while CRIU starts: no
setting could know them. A file system of the node's own takes memory as fast as CRIU hands it out (dump.py).
"""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.checkpoints import codec
from oci_criu_shim.dump import memory
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO

    from oci_criu_shim.checkpoints.codec import Codec

SMALLEST = 64 << 20  # bytes of memory; less is on any disk at once
PLACES, SAMPLES, SAMPLE = 1024, 16, 1 << 17  # places that are looked at, those that are tried, and bytes of each
NAME, FEW, SOME, MANY = ".probe", 1 << 12, 1 << 20, 8 << 20  # the file to try the disk with, and bytes written to it
SOON = 0.01  # seconds, in which a disk that is worth a longer look writes some bytes
CRIU_RATE, SHARED_RATE = 1.2e9, 3e8  # bytes a second: CRIU dumps no more, and a shared file system takes no more of it
THREADS = 8  # that compress, at most; each has two frames in memory
SHARE = 0.7  # of its pace in a sample, a thread has beside CRIU and the others
WORTH = 0.9  # of the time that it takes otherwise, it must take less


class Probe:
    """Looks, in a thread, at the memory of the processes from `init` on, and at the disk of `directory`."""

    def __init__(self, codec_: Codec, init: int, directory: str) -> None:
        import threading

        self.codec = codec_
        self.init = init
        self.directory = directory
        self.found = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def pays(self) -> bool:
        """Wait for the result; True if the dump is faster with compression."""
        self.thread.join()
        return self.found

    def _run(self) -> None:
        try:
            size = process.memory(self.init)
            if size >= SMALLEST:
                shrinks, pace = _try_memory(self.init, self.codec.packer())
                self.found = is_faster(size, shrinks, pace * codec.threads(THREADS), _disk_rate(self.directory))
        except (OSError, ShimError, ValueError):
            pass  # it ends, or can't be looked at; the usual way is as good


def is_faster(size: int, shrinks: float, pace: float, disk: float) -> bool:
    """Return whether it is worth it for `size` bytes, of which compression leaves the part `shrinks`.

    All threads together compress `pace` bytes a second, and the disk writes `disk` a second.
    """
    raw = size / min(disk, CRIU_RATE)
    packed = size / min(disk / shrinks, pace, CRIU_RATE)
    return packed < WORTH * raw


def _try_memory(init: int, pack: Callable[[bytes], bytes]) -> tuple[float, float]:
    """Return the part that compression leaves of some samples, and how many bytes a second a thread compresses.

    Raise ValueError if there is no memory.
    """
    before = after = 0
    seconds = 0.0
    for sample in _samples(init):
        begin = time.thread_time()
        after += len(pack(sample))
        seconds += time.thread_time() - begin
        before += len(sample)
    if not before:
        raise ValueError("no memory")
    return after / before, SHARE * before / max(seconds, 1e-6)


def _samples(init: int) -> Iterator[bytes]:
    """Yield pieces of the processes' own memory, from places that are spread evenly over what is in use of it."""
    from itertools import islice

    for pid, address, end in islice(memory.places(process.tree(init), PLACES), SAMPLES):
        yield memory.read(pid, address, min(SAMPLE, end - address))


def _disk_rate(directory: str) -> float:
    """Return how many bytes a second can be written to `directory`, but no more than SHARED_RATE: a shared file system
    may take the first bytes fast, and have many jobs' to write at once."""
    path = os.path.join(directory, NAME)
    try:
        with open(path, "xb", buffering=0) as stream:
            least = _timed(stream, FEW)  # what a flush takes in any case says nothing of the pace
            seconds = _timed(stream, SOME) - least
            if seconds > SOON:
                return SOME / seconds
            return min(MANY / max(_timed(stream, MANY) - least, 1e-4), SHARED_RATE)
    finally:
        files.remove_if_there(path)


def _timed(stream: FileIO, size: int) -> float:
    """Write random data through to the disk, as a file system may compress, too; return for how many seconds that went
    on."""
    data = os.urandom(size)
    begin = time.monotonic()
    stream.write(data)
    os.fdatasync(stream.fileno())
    return time.monotonic() - begin
