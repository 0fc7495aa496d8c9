"""Simulates checkpoints of many jobs that are written to one file system: by events, without waiting for anything.

All that are being written share the file system evenly, and none is faster than its node. If they are paced, they wait
for each other as in a job: by the numbers of oci_criu_shim.task.pace, and with random tries.
"""

from __future__ import annotations

import heapq
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.harness.cluster.settings import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "src"))

from oci_criu_shim.task import pace  # the path comes first

Pause = Callable[[float], float]


@dataclass(frozen=True)
class Dump:
    """One job's checkpoint: it is due at `begin`, and the job is killed at `end` if it is not committed by then.

    First it freezes, for `delay` seconds, then it writes `size` bytes. It is expected to take `cost` seconds in all.
    """

    begin: float
    end: float
    size: float
    delay: float
    cost: float


@dataclass(frozen=True)
class Disk:
    """A file system of so many bytes a second, of which a node moves no more than `node`.

    With more than `crowd` writers it loses efficiency: by the fourth root of how many times more they are. By sixteen
    times as many, half of it is lost.
    """

    bandwidth: float
    node: float
    crowd: float = math.inf

    def rate(self, writers: int) -> float:
        """Return the bytes a second that each of them writes."""
        share = self.bandwidth / max(writers, 1)
        return min(self.node, share * math.sqrt(math.sqrt(min(1, self.crowd / max(writers, 1)))))


class Crowd:
    """The `dumps` on a `disk`: all at once, or paced by so many files. When it has run, it knows what came of them.

    `is_patient` is a crowd of which nobody gives up waiting. If there is no `pause`, a file is taken at once when it
    gets free, by the one that has waited longest.
    """

    def __init__(
        self,
        dumps: Sequence[Dump],
        disk: Disk,
        files: int = 0,
        pause: Pause | None = pace.pause,
        is_patient: bool = False,
    ) -> None:
        self.dumps = dumps
        self.disk = disk
        self.files = range(files)
        self.pause = pause
        self.is_patient = is_patient
        self.random = random.Random(1)
        self.now = 0.0
        self.moved = 0.0  # bytes that one which had written all the time would have written
        self.events: list[tuple[float, int, Callable[[int], None], int]] = []
        self.order = 0
        self.writing: dict[int, float] = {}  # {number: `moved` when it began}
        self.ends: list[tuple[float, int]] = []  # heap of (`moved` when it is written, number)
        self.waiting: dict[int, float] = {}  # {number: until when}
        self.free = set(self.files)
        self.held: dict[int, int] = {}  # {number: its file}
        self.committed: dict[int, float] = {}  # {number: when}
        self.killed: set[int] = set()
        self.vain = 0.0  # bytes
        self.tries = 0
        self.most = 0  # that wrote at the same time
        for number, dump in enumerate(dumps):
            self._at(dump.begin, self._come, number)
            if dump.end < math.inf:
                self._at(dump.end, self._kill, number)
        while self.events or self.writing:
            self._step()

    def _at(self, when: float, what: Callable[[int], None], number: int) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, what, number))

    def _step(self) -> None:
        """Go on to the next commit or event."""
        while self.ends and self.ends[0][1] not in self.writing:
            heapq.heappop(self.ends)  # it was killed
        rate = self.disk.rate(len(self.writing))
        written = self.now + (self.ends[0][0] - self.moved) / rate if self.ends else math.inf
        if self.events and self.events[0][0] < written:
            when, _, what, number = heapq.heappop(self.events)
            self.moved += rate * (when - self.now)
            self.now = when
            what(number)
        else:
            self.now, (self.moved, number) = written, heapq.heappop(self.ends)
            self._commit(number)

    def _come(self, number: int) -> None:
        dump = self.dumps[number]
        if not self.files:
            self._begin(number)
        elif self.free:
            self._take(number, min(self.free))
        else:
            patience = math.inf if self.is_patient else pace.patience(dump.cost, dump.end - dump.begin)
            self.waiting[number] = self.now + max(patience, 0)
            self._pause(number)

    def _pause(self, number: int) -> None:
        until = self.waiting[number]
        seconds = self.pause(self.dumps[number].cost) * self.random.uniform(0.5, 1.5) if self.pause else math.inf
        if min(self.now + seconds, until) < math.inf:
            self._at(min(self.now + seconds, until), self._try, number)

    def _try(self, number: int) -> None:
        if number not in self.waiting:
            return
        self.tries += 1
        tried = self.random.sample(self.files, min(pace.FILES, len(self.files)))
        found = next((file for file in tried if file in self.free), None)
        if found is not None:
            self._take(number, found)
        elif self.now >= self.waiting[number]:
            self._begin(number)
        else:
            self._pause(number)

    def _take(self, number: int, file: int) -> None:
        self.free.remove(file)
        self.held[number] = file
        self._begin(number)

    def _begin(self, number: int) -> None:
        self.waiting.pop(number, None)
        self._at(self.now + self.dumps[number].delay, self._write, number)

    def _write(self, number: int) -> None:
        if number not in self.killed:
            self.writing[number] = self.moved
            self.most = max(self.most, len(self.writing))
            heapq.heappush(self.ends, (self.moved + self.dumps[number].size, number))

    def _commit(self, number: int) -> None:
        del self.writing[number]
        self.committed[number] = self.now
        self._release(number)

    def _kill(self, number: int) -> None:
        if number in self.committed:
            return
        self.killed.add(number)
        self.waiting.pop(number, None)
        if number in self.writing:
            self.vain += self.moved - self.writing.pop(number)
        self._release(number)

    def _release(self, number: int) -> None:
        if number not in self.held:
            return
        file = self.held.pop(number)
        self.free.add(file)
        if self.pause is None and self.waiting:
            self._take(next(iter(self.waiting)), file)
