"""Runs on a node as root: kills one process of a job, as `kill -9` would.

`victim.py KIND JOB DELAY LIMIT` waits until there is a process of that KIND, and DELAY seconds more. If the process has
ended by then, it waits for the next one, and half as long. It prints which process it has killed, or nothing if there
was none for LIMIT seconds.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)


def words(pid: int) -> list[str]:
    """Return the command line of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except GONE:
        return []


def every() -> Iterator[int]:
    yield from (int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid())


def supervisors(job: str) -> list[int]:
    """Those that hold the streams of the job's containers."""
    found = []
    for path in Path("/run/oci-criu-shim", job).glob("*/pid"):
        with suppress(*GONE, ValueError):
            found.append(int(path.read_text()))
    return found


def parents(job: str) -> list[int]:
    """The slurmstepd of each supervisor."""
    found = []
    for pid in supervisors(job):
        with suppress(*GONE):
            found.append(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]))
    return [pid for pid in found if words(pid)[:1] and words(pid)[0].startswith("slurmstepd")]


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except GONE:
        return []


def forked(job: str) -> list[int]:
    """Children of supervisors that take checkpoints or restore: they run the same program."""
    return [child for pid in supervisors(job) for child in children(pid) if words(child) == words(pid) != []]


def named(pattern: str) -> Callable[[str], list[int]]:
    """By a pattern that the command line fits; {job} in it is the job's number."""
    return lambda job: [pid for pid in every() if re.search(pattern.format(job=job), " ".join(words(pid)))]


KINDS: dict[str, Callable[[str], list[int]]] = {
    "supervisor": supervisors,
    "child": forked,
    "criu": named(r"^\S*criu swrk "),
    "worker": named(r" \S*/worker\.py {job}\b"),
    "helper": named(r"^\S*/helper {job} "),
    "slurmstepd": parents,
    "slurmd": named(r"^\S*/slurmd\b"),
}


def main(kind: str, job: str, delay: str, limit: str) -> None:
    end, wait = time.monotonic() + float(limit), float(delay)
    while time.monotonic() < end:
        if not KINDS[kind](job):
            time.sleep(0.005)
            continue
        time.sleep(wait)
        wait /= 2
        for pid in KINDS[kind](job)[:1]:
            said = f"{pid} {' '.join(words(pid))}"
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                print(said)
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
