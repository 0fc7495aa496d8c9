"""Have a checkpoint wait for its turn, so that those of many jobs are not all written to one file system at once.

The site has made a directory, `pace-dir`, with a file for each of those that may be. Whoever has locked one of them
writes. All others go on computing meanwhile, and try again now and then. The kernel takes its lock from a process that
ends, and a server of NFS from a node that does. Nobody waits for ever: no longer than some times what the checkpoint
takes, so that small ones, of which others notice little, are written soon in any case; and not beyond what its job can
spare.

A child locks: a server that does not answer holds whoever asks up until that is killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import time
from contextlib import contextmanager

from oci_criu_shim.errors import line_of
from oci_criu_shim.host import linux, mounts, process
from oci_criu_shim.host.quick import signal
from oci_criu_shim.task import schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.task.policy import Policy

# A checkpoint waits no longer than TIMES what it is expected to take, and leaves its job MARGIN times that, and
# SPARE_SECONDS. What other numbers lead to can be tried by bench/scale.py.
TIMES, MARGIN, SPARE_SECONDS = 5.0, 1.5, 5.0
SHARE, SHORTEST, LONGEST = 0.25, 0.25, 5.0  # the pause between tries: a part of what it takes, within these seconds
FILES = 2  # that are tried then
LOOK_SECONDS = 1.0  # until it is said that it waits, and between looks at whether it may go on waiting
TAKEN = b"taken"
FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def patience(cost: float, left: float) -> float:
    """Return for how many seconds a checkpoint may wait that takes `cost`, if its job has `left`; none if negative."""
    return min(TIMES * cost, left - MARGIN * cost - SPARE_SECONDS)


def pause(cost: float) -> float:
    """Return how many seconds pass between two tries, on average: short ones try more often, so more are in time."""
    return min(max(SHARE * cost, SHORTEST), LONGEST)


class Turn:
    """The turn of a checkpoint that is due for `reason`, of a job that must have gone by `end`.

    That is in seconds since the epoch; 0 if it is not known. It has `waited` for so many seconds. If it `is_overtaken`,
    something else is wanted now, and it is not to be taken.
    """

    def __init__(self, policy: Policy, reason: str, end: float) -> None:
        self.policy = policy
        self.is_periodic = reason == schedule.INTERVAL
        self.end = end
        self.what = f"the checkpoint of {policy.task.describe()}"
        self.begun = time.time()
        self.spare = policy.schedule.spare()
        self.waited = 0.0
        self.is_overtaken = False
        self.child: int | None = None  # has the lock, or tries to get one

    def wait(self) -> None:
        """Wait until it is there, or the job has no time to wait any more. Raise OSError if files can't be locked."""
        if self._left() <= 0 or mounts.own(self.policy.store.path):
            return
        reader, writer = os.pipe()
        try:
            self.child = process.fork(lambda: self._lock(writer))
        finally:
            os.close(writer)
        with open(reader, "rb", buffering=0) as answer:
            ready = self._watch([reader, *([self.policy.urgent] if self.is_periodic else [])])
            said = answer.read(select.PIPE_BUF) if reader in ready else None
        if said != TAKEN:
            self.release()
        if said is not None and said != TAKEN:
            raise OSError(said.decode(errors="replace") or "who asked for a lock was killed")
        self.is_overtaken = said is None and bool(ready)
        if not ready and self.policy.container.alive("init"):
            self.policy.log.event(f"{self.what} is written without its turn, after {self.waited:.0f} s")

    def release(self) -> None:
        """Let another one write. The child is not waited for, since nothing may hold this process up."""
        if self.child is not None:
            os.kill(self.child, signal.SIGKILL)

    def _left(self) -> float:
        """Return for how many seconds more it may wait: none if its program has ended."""
        if self.policy.container.alive("init") is None:
            return 0
        cost = self._cost()
        most = min(TIMES * cost, self.spare) if self.is_periodic else patience(cost, self.end - self.begun)
        return most - (time.time() - self.begun)

    def _cost(self) -> float:
        return self.policy.estimate.seconds() + self.policy.hook_limit

    def _watch(self, descriptors: list[int]) -> list[int]:
        """Return those that can be read at last; none if there is no more time for that."""
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        is_said = False
        while (left := self._left()) > 0:
            ready = [descriptor for descriptor, _ in poll.poll(1000 * min(left, LOOK_SECONDS))]
            self.waited = time.time() - self.begun
            if ready:
                return ready
            if not is_said:
                bound = f"for {left:.0f} s at most"
                self.policy.log.event(f"{self.what} waits for its turn, {bound}: others are being written (pace-dir)")
            is_said = True
        return []

    def _lock(self, writer: int) -> int:
        """In a child: lock a file, say so, and keep it locked. If that can't be done, say why."""
        import random

        linux.end_with_parent()
        try:
            found = files(self.policy.pace_dir)
            if self.is_periodic:  # half of them are there for jobs that must go
                found = found[: max(len(found) // 2, 1)]
            tried = random.sample(found, len(found))
            while all(lock(path) is None for path in tried):
                time.sleep(pause(self._cost()) * random.uniform(0.5, 1.5))
                tried = random.sample(found, min(FILES, len(found)))
        except OSError as error:
            os.write(writer, line_of(error)[: select.PIPE_BUF // 4].encode())
            return 1
        os.write(writer, TAKEN)
        while True:
            select.select([], [], [])


@contextmanager
def turn(policy: Policy, reason: str, end: float) -> Iterator[Turn]:
    """Wait for the Turn of a checkpoint, and hold it in the block. If files can't be locked, that is said."""
    found = Turn(policy, reason, end)
    try:
        try:
            found.wait()
        except OSError as error:
            policy.log.event(
                f"{found.what} waits for no others: {line_of(error)} (hint: `oci-criu-shim doctor` says more)"
            )
        yield found
    finally:
        found.release()


def files(directory: str) -> list[str]:
    """Return the paths of a directory's files in order; OSError if there are none."""
    with os.scandir(directory) as entries:
        found = [one.path for one in entries if one.name[0] != "." and one.is_file(follow_symlinks=False)]
    if not found:
        raise OSError(errno.ENOENT, "there are no files in it", directory)
    return sorted(found)


def lock(path: str) -> int | None:
    """Lock a file, and return the descriptor that keeps it locked; None if another process has it locked.

    Raise OSError if it can't be locked.
    """
    descriptor = os.open(path, FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except (BlockingIOError, PermissionError):  # fcntl(2): either means that
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        error.filename = path
        raise
