"""Runs on a node as root: kills CRIU as soon as it is at work in a job's container, and then the container's init.

That is what happens to the init if CRIU is gone when the breakpoint is hit that CRIU has set. `trap.py JOB` prints
`ready` once it is watching.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def criu() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(path.parent.name)] if path.read_text() == "criu\n" else []
    return found


def is_traced(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "t"


def main(job: str) -> None:
    init = int(next(Path("/run/oci-criu-shim", job).glob("*/init.pid")).read_text())
    print("ready", flush=True)
    while not is_traced(init):
        time.sleep(0.001)
    for pid in criu():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os.kill(init, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
