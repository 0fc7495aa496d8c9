"""Runs on a node as a job's user: has the step's helper start a worker, and tries to get at what that holds.

usage: peek.py SOCKET. Prints what succeeded, and at the end the number of attempts.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from collections.abc import Callable

PIDFD_GETFD = 438
PTRACE_SEIZE = 0x4206
REPORTS = 4
libc = ctypes.CDLL(None, use_errno=True)


def worker_of(connection: socket.socket) -> int:
    """The pid of a worker, whose Python has begun."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", encoding="ascii", errors="replace") as stream:
                    words = stream.read().split("\0")
            except OSError:
                continue
            if words[1:3] == ["-I", "-S"] and words[3].endswith("/worker.py") and words[6:7] == ["report"]:
                return int(name)
        time.sleep(0.01)
    sys.exit("no worker")


def call(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def attempts(pid: int) -> list[Callable[[], object]]:
    pidfd = os.pidfd_open(pid)
    return [
        lambda: os.open(f"/proc/{pid}/fd/{REPORTS}", os.O_WRONLY),
        lambda: os.readlink(f"/proc/{pid}/fd/{REPORTS}"),
        lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR),
        lambda: call(libc.syscall(PIDFD_GETFD, pidfd, REPORTS, 0)),
        lambda: call(libc.ptrace(PTRACE_SEIZE, pid, None, None)),
    ]


def main() -> None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(sys.argv[1])
    pid = worker_of(connection)
    tried = attempts(pid)
    for number, attempt in enumerate(tried):
        try:
            attempt()
            print(f"attempt {number} succeeded")
        except PermissionError:
            pass
    os.kill(pid, 0)  # it was there all the time
    print(len(tried))


if __name__ == "__main__":
    main()
