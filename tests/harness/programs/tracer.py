"""Runs on a node as a job's user: in the user namespace of a process, tries to look into what dumps its container.

`tracer.py PID` prints `ready` and looks until its input ends. Then it prints `saw PROGRAM` for each program it saw, and
`traced criu` if the user, who has every right in that namespace, could look into CRIU.

What CRIU starts is in that namespace for moments only. So it is stopped again and again, as its user may, once CRIU has
frozen the container: those that it starts before are never in there, and it won't have them stopped.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("tar",)  # that CRIU executes in that namespace
GONE = (FileNotFoundError, ProcessLookupError)


def name_of(pid: str) -> str:
    """The program's name; empty if there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except GONE:
        return ""


def may_trace(pid: str) -> bool:
    """Whether the kernel would let this process trace that one, while it is CRIU (PTRACE_MODE_READ of ptrace(2)).

    What CRIU executes in that namespace is the user's in any case.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            stream.read(1)
            return os.readlink(f"/proc/{pid}/exe").endswith("/criu")
    except OSError:
        return False


def look_into(pid: str) -> Iterator[str]:
    """What can be said of a child of CRIU's, from one moment to the next, until it ends or is another program."""
    try:
        while (name := name_of(pid)) == "criu":
            os.kill(int(pid), signal.SIGSTOP)
            if may_trace(pid):
                yield "traced criu"
            os.kill(int(pid), signal.SIGCONT)
    except ProcessLookupError:
        return
    if name in PROGRAMS:
        yield f"saw {name}"


def children(pid: str) -> list[str] | None:
    """Those of a process; None once it has ended."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except GONE:
        return None


def is_frozen(init: str) -> bool:
    """Whether a process is traced."""
    return "\nTracerPid:\t0\n" not in Path(f"/proc/{init}/status").read_text()


def follow(pid: str, init: str) -> Iterator[str]:
    """What can be said of a CRIU, until it ends."""
    yield "saw criu"
    frozen = False
    while (found := children(pid)) is not None:
        frozen = frozen or is_frozen(init)
        for child in found if frozen else ():
            yield from look_into(child)


def main() -> None:
    """Look until the input ends."""
    said: set[str] = set()
    os.setns(os.open(f"/proc/{sys.argv[1]}/ns/user", os.O_RDONLY))  # type: ignore[attr-defined]  # of Python 3.12
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            if name_of(pid) == "criu":
                said.update(follow(pid, sys.argv[1]))
    print("\n".join(sorted(said)))


if __name__ == "__main__":
    main()
