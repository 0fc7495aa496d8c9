"""Runs on a node as a job's user: enters the user namespace of a process and looks for what dumps its container.

`tracer.py PID` prints `ready` and looks until its input ends. Then it prints `saw PROGRAM` for each program it saw, and
`traced criu` if the user, who has every right in that namespace, could look into CRIU.
"""

from __future__ import annotations

import os
import select
import sys

PROGRAMS = ("criu", "tar")


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


def look(said: set[str]) -> None:
    """Note what of the dump there is, and whether it could be traced."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
                name = stream.read().strip()
        except OSError:
            continue
        if name in PROGRAMS:
            said.add(f"saw {name}")
            if may_trace(pid):
                said.add("traced criu")


def main() -> None:
    """Look until the input ends."""
    said: set[str] = set()
    os.setns(os.open(f"/proc/{sys.argv[1]}/ns/user", os.O_RDONLY))  # type: ignore[attr-defined]  # of Python 3.12
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        look(said)
    print("\n".join(sorted(said)))


if __name__ == "__main__":
    main()
