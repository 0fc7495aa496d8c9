"""Threads and children with seccomp filters of their own: for every line that is read, what each of them may do.

`filtered.py CASE`: a name in CASES. What is printed is a line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP, GETPPID, MUNMAP, PTRACE, CAPSET, GETPRIORITY, SETITIMER = 317, 110, 11, 101, 126, 140, 38  # on x86-64
ALLOW, ERRNO, KILL, TSYNC = 0x7FFF0000, 0x00050000, 0x80000000, 1


def install(*refused: int, action: int = ERRNO | 1, flags: int = 0, no_new_privs: int = 1) -> None:
    program = [(0x20, 0, 0, 0)]
    for number in refused:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, action)]
    program.append((0x06, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    struct_fprog = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(code)))
    if no_new_privs:
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(SECCOMP, 1, flags, struct_fprog):
        raise OSError(ctypes.get_errno(), "seccomp")


def seen() -> list[object]:
    """The thread's mode and its number of filters; and whether it may ask for its parent and a priority."""
    with open(f"/proc/self/task/{threading.get_native_id()}/status", encoding="ascii") as stream:
        fields = dict(line.split(":\t") for line in stream.read().splitlines())
    allowed = [libc.syscall(number, 0, 0) >= 0 for number in (GETPPID, GETPRIORITY)]
    return [int(fields["Seccomp"]), int(fields["Seccomp_filters"]), *allowed]


def in_thread(filters: Callable[[], object] = lambda: None) -> Callable[[], object]:
    asked: queue.Queue[None] = queue.Queue()
    answers: queue.Queue[list[object]] = queue.Queue()

    def run() -> None:
        filters()
        answers.put(seen())
        while True:
            asked.get()
            answers.put(seen())

    threading.Thread(target=run, daemon=True).start()
    answers.get()

    def ask() -> object:
        asked.put(None)
        return answers.get()

    return ask


def in_child(filters: Callable[[], object], stops: bool = False) -> Callable[[], object]:
    asked, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        filters()
        while True:
            os.write(answers[1], json.dumps(seen()).encode())
            os.read(asked[0], 1)
    os.read(answers[0], 99)

    def stop() -> None:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)

    if stops:
        stop()

    def ask() -> object:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
            state = stream.read().rpartition(")")[2].split()[0]
        if stops:
            os.kill(pid, signal.SIGCONT)
        os.write(asked[1], b"?")
        found = json.loads(os.read(answers[0], 99))
        if stops:
            stop()
        return ["T" if state == "T" else "", *found]

    return ask


def strict() -> Callable[[], object]:
    """A child that may only read, write and end."""
    asked, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        libc.prctl(PR_SET_SECCOMP, 1, 0, 0, 0)
        while True:
            os.write(answers[1], os.read(asked[0], 1))

    def ask() -> object:
        os.write(asked[1], b"?")
        answer = os.read(answers[0], 1).decode()
        with open(f"/proc/{pid}/status", encoding="ascii") as stream:
            mode = dict(line.split(":\t") for line in stream.read().splitlines())["Seccomp"]
        return [answer, mode]

    return ask


def twice() -> None:
    install(CAPSET, GETPPID)
    install(GETPRIORITY)


def unprivileged() -> None:
    install(SETITIMER, GETPPID, no_new_privs=0)
    header, sets = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    if libc.syscall(CAPSET, header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def together() -> Callable[[], object]:
    """All threads get it."""
    threads = [in_thread(), in_thread()]
    install(CAPSET, GETPPID, flags=TSYNC)
    return lambda: [ask() for ask in threads]


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "child": lambda: in_child(lambda: install(CAPSET, GETPPID)),
    "child, killed": lambda: in_child(lambda: install(MUNMAP, PTRACE, action=KILL)),
    "child, stopped": lambda: in_child(lambda: install(CAPSET, GETPPID), stops=True),
    "thread": lambda: in_thread(lambda: install(CAPSET, GETPPID)),
    "thread, twice": lambda: in_thread(twice),
    "thread, harmless": lambda: in_thread(lambda: install(GETPPID)),
    "together": together,
    "strict": strict,
    "privileged": lambda: in_child(lambda: install(CAPSET, GETPPID, no_new_privs=0)),
}
# As "privileged", it takes CAP_SYS_ADMIN, and does not keep it.
REFUSED = {"privileged before": lambda: in_child(unprivileged)}


if __name__ == "__main__":
    ask = (CASES | REFUSED)[sys.argv[1]]()
    for _ in sys.stdin:
        print(json.dumps({"seen": ask(), "init": seen()}), flush=True)
