"""Many kinds of kernel state at once, each proved to go on every tick: `features.py TICKS SECONDS`.

Threads, a forked child behind a pipe and a unix socket, shared memory between the two, and a file that was deleted
while it is open. Every tick prints `tick N ok`, or `tick N broken: WHAT`.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import tempfile
import threading
import time


class Threads:
    """Threads that each add one when asked; all must have answered."""

    def __init__(self, count: int) -> None:
        self.counts = [0] * count
        self.start, self.end = threading.Barrier(count + 1), threading.Barrier(count + 1)
        for number in range(count):
            threading.Thread(target=self._work, args=(number,), daemon=True).start()

    def _work(self, number: int) -> None:
        while True:
            self.start.wait()
            self.counts[number] += 1
            self.end.wait()

    def check(self, tick: int) -> bool:
        """One round of all threads."""
        self.start.wait()
        self.end.wait()
        return self.counts == [tick] * len(self.counts)


class Child:
    """A forked process: numbers go to it by a pipe and come back by a unix socket and shared memory."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        reader, self.writer = os.pipe()
        self.socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(reader, theirs)

    def _work(self, reader: int, answer: socket.socket) -> None:
        os.close(self.writer)
        while data := os.read(reader, 8):
            self.memory[:8] = data
            answer.sendall(data)
        os._exit(0)

    def check(self, tick: int) -> bool:
        """One number there and back."""
        data = tick.to_bytes(8, "little")
        os.write(self.writer, data)
        return self.socket.recv(8) == data and self.memory[:8] == data


class Deleted:
    """A file without a name, written at each tick and read again from its beginning."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(dir="/var/tmp")
        self.written = b""

    def check(self, tick: int) -> bool:
        """All that was ever written is there."""
        self.written += b"%d," % tick
        self.file.write(b"%d," % tick)
        self.file.seek(0)
        return self.file.read() == self.written


def main() -> None:
    """Tick."""
    ticks, seconds = int(sys.argv[1]), float(sys.argv[2])
    child = Child()
    parts: dict[str, Threads | Child | Deleted] = {"threads": Threads(4), "child": child, "deleted file": Deleted()}
    for tick in range(1, ticks + 1):
        broken = [name for name, part in parts.items() if not part.check(tick)]
        print(f"tick {tick} " + (f"broken: {', '.join(broken)}" if broken else "ok"), flush=True)
        time.sleep(seconds)
    os.close(child.writer)
    os.waitpid(child.pid, 0)


if __name__ == "__main__":
    main()
