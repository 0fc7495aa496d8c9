"""Runs on a node as root: prints the control groups of all descendants of a job's helper.

`placed.py JOB` prints `ready` and looks until its input ends. Then it prints each combination once, a line `PROGRAM
CONTROLLERS PATH`, as in /proc/PID/cgroup, or `PROGRAM oom_score_adj NUMBER`.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Iterator
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)
EXITING = 4  # PF_EXITING of the kernel's include/linux/sched.h


def helpers(job: str) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_text(errors="replace").split("\0")
        except GONE:
            continue
        if words[0].endswith("/helper") and words[1:2] == [job]:
            found.append(int(name))
    return found


def below(pid: int) -> Iterator[int]:
    """What descends from it."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()):
                yield child
                yield from below(child)
    except GONE:
        return


def look(pid: int) -> Iterator[str]:
    """What is printed of a process; nothing of one that is yet to become a program, or has ended."""
    here = Path(f"/proc/{pid}")
    try:
        name = (here / "comm").read_text().strip().replace(" ", "-")
        lines = (here / "cgroup").read_text().splitlines()
        adjusted = (here / "oom_score_adj").read_text().strip()
        flags = int((here / "stat").read_text().rpartition(")")[2].split()[6])
    except GONE:
        return
    # One that ends is in the root of each hierarchy of version 1, for all that is said of it.
    if name != "helper" and not flags & EXITING:
        yield f"{name} oom_score_adj {adjusted}"
        yield from (" ".join((name, *re.split("^[0-9]+:|:", line, maxsplit=2)[1:])) for line in lines)


def main(job: str) -> None:
    seen: set[str] = set()
    found = helpers(job)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        seen.update(line for helper in found for pid in below(helper) for line in look(pid))
    print("\n".join(sorted(seen)))


if __name__ == "__main__":
    main(*sys.argv[1:])
