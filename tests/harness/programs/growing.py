"""Writes a line to each of several files for every line that it reads: `growing.py FILE...`.

Each FILE is appended to, or written at an offset if its name says so. One more file is in a tmpfs, and one is deleted.
The answer is a line of JSON with the count and what is wrong: files with other contents, a clock that went backwards.
For a line that is a number the program first sleeps so many seconds, so that other lines wait to be read.
"""

from __future__ import annotations

import json
import os
import sys
import time


class Grown:
    """A file that only this program writes to."""

    def __init__(self, path: str, *, deleted: bool = False) -> None:
        self.path = path
        flags = os.O_TRUNC if "offset" in path else os.O_APPEND
        access = os.O_RDWR if deleted else os.O_WRONLY
        self.descriptor = os.open(path, access | os.O_CREAT | flags, 0o644)
        self.deleted = deleted
        if deleted:
            os.unlink(path)

    def add(self, data: bytes) -> None:
        os.write(self.descriptor, data)

    def read(self) -> bytes:
        if self.deleted:
            return os.pread(self.descriptor, 1 << 20, 0)
        with open(self.path, "rb") as stream:
            return stream.read()


def main(*paths: str) -> None:
    """Until the input ends."""
    files = [*map(Grown, paths), Grown("/dev/shm/own"), Grown("/var/tmp/deleted", deleted=True)]
    expected, clock = b"", time.monotonic()
    lines = open(0, "rb", buffering=0)  # what is not asked for stays in the pipe
    for count, line in enumerate(lines, start=1):
        if line.strip().isdigit():
            time.sleep(int(line))
        expected += b"%d\n" % count
        for file in files:
            file.add(b"%d\n" % count)
        wrong = [file.path for file in files if file.read() != expected]
        clock, before = time.monotonic(), clock
        if not before <= clock < before + 60:
            wrong.append("clock")
        print(json.dumps({"count": count, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
