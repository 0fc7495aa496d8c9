"""Tell whether CRIU gets on: by what its processes read, write and compute, and by the memory that they touch."""

from __future__ import annotations

import time

from oci_criu_shim.host import linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Counters = dict[int, tuple[str, ...]]

LOOK_SECONDS = 1.0
LEAST_SECONDS = 60.0  # without any progress, until it is taken for hanging
SLOWEST = 100 << 20  # bytes per second: a single system call may read all of the images
STORAGE = 5  # how many times as long a process may wait for storage: a server of files may be starting again
# Of /proc/PID/stat, from the state on: page faults, and time of the processor (proc_pid_stat(5), fields 10 to 15).
FAULTS_AND_TIME = slice(7, 13)
UNINTERRUPTIBLE = "D"


class Progress:
    """Whether a piece of work gets on that has `size` bytes to read or write.

    `processes` returns the pids of those that do it, and `more` anything else that changes while they do.
    """

    def __init__(
        self, processes: Callable[[], Iterable[int]], size: int = 0, more: Callable[[], object] = lambda: None
    ) -> None:
        self.processes = processes
        self.more = more
        self.patience = LEAST_SECONDS + size / SLOWEST
        self.seen: object = None
        self.idle = 0.0
        self.last = time.monotonic()

    def stopped(self) -> float:
        """Look; return for how many seconds nothing has changed if that is too long, else 0.

        Call it every LOOK_SECONDS. If it was called late, Slurm may have suspended the job: that time does not count.
        """
        found = {pid: _counters(pid) for pid in self.processes()}
        seen, now = (found, self.more()), time.monotonic()
        self.idle = self.idle + min(now - self.last, 2 * LOOK_SECONDS) if seen == self.seen else 0
        self.seen, self.last = seen, now
        waits = any(counters[:1] == (UNINTERRUPTIBLE,) for counters in found.values())
        return self.idle if self.idle > self.patience * (STORAGE if waits else 1) else 0

    def again(self) -> None:
        """Begin anew: something else was waited for meanwhile."""
        self.seen, self.last = None, time.monotonic()

    def waiting(self) -> str:
        """Return which process waits for storage or a device, and where in the kernel; empty if none does."""
        for pid in self.processes():
            fields = process.stat_fields(pid)
            if fields and fields[0] == UNINTERRUPTIBLE:
                return f"process {pid} waits for storage or a device{process.waits_in(f'/proc/{pid}')}"
        return ""


def _counters(pid: int) -> tuple[str, ...]:
    fields = process.stat_fields(pid)
    return (fields[0], *fields[FAULTS_AND_TIME], _traffic(pid)) if fields else ()


def _traffic(pid: int) -> str:
    """Return what a process has read and written (proc_pid_io(5)); nothing if this process may not know it."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as stream:
            return stream.read()
    except OSError:
        return ""


class Sizes:
    """The sizes of the files in the directory of the descriptor, as `found`, until stop() is called.

    A thread looks, since nobody else may wait for storage that does not answer.
    """

    def __init__(self, directory: int) -> None:
        import threading  # it takes long to import, and a start needs none

        self.directory = directory
        self.found: dict[str, int] = {}
        self.unwanted = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.unwanted.wait(LOOK_SECONDS):
            try:
                self.found = linux.sizes(self.directory)
            except OSError:
                pass  # one of them was just removed

    def stop(self) -> None:
        """Look no more."""
        self.unwanted.set()
