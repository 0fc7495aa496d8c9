"""Changes attributes of a process, of a thread of it, and of a child; prints them for every line that it reads."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import sys
import threading
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_SET_DUMPABLE, PR_GET_DUMPABLE = 1, 2, 4, 3
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 29, 30, 36, 37
PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 41, 42
IOPRIO_GET, IOPRIO_SET, MEMBARRIER = 252, 251, 324
# {which: (processor, nice value, priority in the best-effort class, timer slack)}
WANTED = {"main": (0, 4, 6, 77000), "thread": (1, 7, 5, 123000), "child": (1, 9, 3, 88000)}
ADDR_NO_RANDOMIZE = 0x0040000


def change(which: str) -> None:
    """What each thread has of its own."""
    processor, nice, priority, slack = WANTED[which]
    os.sched_setaffinity(0, {processor})
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    libc.syscall(IOPRIO_SET, 1, 0, 2 << 13 | priority)
    libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(slack))


def change_process() -> None:
    """What a process has."""
    for name, value in (("oom_score_adj", "444"), ("coredump_filter", "0x7f")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
            stream.write(value)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    libc.syscall(MEMBARRIER, 1 << 4, 0, 0)  # register for the private expedited ones


def look() -> dict[str, Any]:
    """A thread's attributes."""
    return {
        "processors": sorted(os.sched_getaffinity(0)),
        "nice": os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
        "io_priority": libc.syscall(IOPRIO_GET, 1, 0),
        "timer_slack": libc.prctl(PR_GET_TIMERSLACK),
        "personality": text("/proc/thread-self/personality"),
    }


def look_at_process() -> dict[str, Any]:
    """A process's attributes."""
    number = ctypes.c_int()
    found: dict[str, Any] = {name: text(f"/proc/self/{name}") for name in ("oom_score_adj", "coredump_filter")}
    for name, call in (("subreaper", PR_GET_CHILD_SUBREAPER), ("pdeathsig", PR_GET_PDEATHSIG)):
        libc.prctl(call, ctypes.byref(number))
        found[name] = number.value
    return {
        **found,
        "dumpable": libc.prctl(PR_GET_DUMPABLE),
        "huge pages": libc.prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0),
        "membarrier": libc.syscall(MEMBARRIER, 1 << 9, 0, 0),
        "uname": os.uname().release,
        "machine": os.uname().machine,
    }


def text(path: str) -> str:
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()


class Child:
    """A process, with another personality, that can't be traced."""

    def __init__(self) -> None:
        asked, answer = os.pipe(), os.pipe()
        if os.fork() == 0:
            self._serve(os.fdopen(asked[0]), os.fdopen(answer[1], "w"))
        self.asked, self.answer = os.fdopen(asked[1], "w"), os.fdopen(answer[0])
        self.look()

    def _serve(self, asked: Any, answer: Any) -> None:
        libc.prctl(PR_SET_PDEATHSIG, 12)
        change("child")
        change_process()
        if "PERSONALITY" in os.environ:
            libc.personality(ctypes.c_ulong(ADDR_NO_RANDOMIZE))
        found = {**look(), **look_at_process()}
        libc.prctl(PR_SET_DUMPABLE, 0)
        for _ in asked:
            libc.prctl(PR_SET_DUMPABLE, found["dumpable"])  # or it may not look at itself
            found = {**look(), **look_at_process()}
            libc.prctl(PR_SET_DUMPABLE, 0)
            print(json.dumps(found), file=answer, flush=True)
        os._exit(0)

    def look(self) -> Any:
        print(file=self.asked, flush=True)
        return json.loads(self.answer.readline())


def main() -> None:
    asked: queue.Queue[bool] = queue.Queue()
    answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def serve() -> None:
        change("thread")
        while asked.get():
            answers.put(look())

    child = Child()
    threading.Thread(target=serve, daemon=True).start()
    change("main")
    change_process()
    for _ in sys.stdin:
        asked.put(True)
        seen = {"main": {**look(), **look_at_process()}, "thread": answers.get(), "child": child.look()}
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
