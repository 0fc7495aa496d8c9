"""Waits in many system calls, a thread and a child for each; a line of JSON for every line that it reads.

The answer has {call: [result, error]} of the calls that have ended. The word `wake` ends all that wait for something.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
LONG = 1000
SECONDS = ctypes.c_int64 * 2
Call = Callable[[], int]


def calls(waited: int) -> dict[str, Call]:
    """Every call waits until there is something to read from the descriptor `waited`, or for ever."""
    epoll = select.epoll()
    epoll.register(waited, select.EPOLLIN)
    entry = struct.pack("=ihh", waited, select.POLLIN, 0)
    signals = ctypes.create_string_buffer(struct.pack("=Q", 1 << signal.SIGUSR2 - 1), 128)
    limited = socket.socket(fileno=os.dup(waited))
    limited.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", LONG, 0))
    semaphores = libc.semget(0, 1, 0o1600)
    down = struct.pack("=Hhh", 0, -1, 0)
    queue = libc.msgget(0, 0o1600)
    semaphore = ctypes.create_string_buffer(32)
    events = [ctypes.create_string_buffer(12) for _ in range(2)]
    return {
        "nanosleep": lambda: libc.nanosleep(SECONDS(LONG, 0), None),
        "clock_nanosleep": lambda: -libc.clock_nanosleep(1, 0, SECONDS(LONG, 0), None),
        "usleep": lambda: libc.usleep(LONG * 1000000),
        "poll": lambda: libc.poll(ctypes.create_string_buffer(entry, 8), 1, LONG * 1000),
        "poll without a limit": lambda: libc.poll(ctypes.create_string_buffer(entry, 8), 1, -1),
        "ppoll": lambda: libc.ppoll(ctypes.create_string_buffer(entry, 8), 1, SECONDS(LONG, 0), None),
        "select": lambda: libc.select(waited + 1, _set(waited), None, None, SECONDS(LONG, 0)),
        "epoll_wait": lambda: libc.epoll_wait(epoll.fileno(), events[0], 1, LONG * 1000),
        "epoll_pwait": lambda: libc.epoll_pwait(epoll.fileno(), events[1], 1, -1, None),
        "sem_timedwait": lambda: libc.sem_clockwait(semaphore, 1, SECONDS(1 << 40, 0)),
        "semop": lambda: libc.semop(semaphores, down, 1),
        "semtimedop": lambda: libc.semtimedop(semaphores, down, 1, SECONDS(LONG, 0)),
        "msgrcv": lambda: libc.msgrcv(queue, ctypes.create_string_buffer(16), 8, 0, 0),
        "sigtimedwait": lambda: libc.sigtimedwait(signals, None, SECONDS(LONG, 0)),
        "recv": lambda: libc.recv(limited.fileno(), ctypes.create_string_buffer(1), 1, socket.MSG_PEEK),
        "recv without a limit": lambda: libc.recv(waited, ctypes.create_string_buffer(1), 1, socket.MSG_PEEK),
        "pause": lambda: libc.pause(),
    }


def _set(descriptor: int) -> Any:
    """A select(2)'s set of that descriptor."""
    return ctypes.create_string_buffer((1 << descriptor).to_bytes(128, "little"), 128)


def carry_out(call: Call) -> list[Any]:
    """Its result, and the error's name."""
    ctypes.set_errno(0)
    result = call()
    number = -result if result < -1 else ctypes.get_errno()
    return [result, errno.errorcode.get(number, "")]


def main() -> None:
    ended: dict[str, list[Any]] = {}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    here, there = socket.socketpair()
    os.set_inheritable(there.fileno(), True)
    status, report = os.pipe()
    for name, call in calls(there.fileno()).items():
        if os.fork() == 0:
            os.write(report, json.dumps({f"{name} of a child": carry_out(call)}).encode() + b"\n")
            os._exit(0)

        def wait(name: str = name, call: Call = call) -> None:
            ended[name] = carry_out(call)

        threading.Thread(target=wait, daemon=True).start()
    os.set_blocking(status, False)
    for line in sys.stdin:
        if line == "wake\n":
            here.send(b"x")
        try:
            for said in os.read(status, 1 << 16).splitlines():
                ended |= json.loads(said)
        except BlockingIOError:
            pass
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
