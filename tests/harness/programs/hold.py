"""Runs on a node as root: stops the CRIU that dumps into a task's checkpoint directory while it writes memory.

`hold.py DIRECTORY SECONDS` prints `ready` and waits for that long at most. The exit status is 0 if CRIU was stopped.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

TITLE = b"criu: dump "


def dumping() -> list[int]:
    """Return the pids of each CRIU that is at work on a dump."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(path.parent.name)] if path.read_bytes().startswith(TITLE) else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def main(directory: str, seconds: str) -> int:
    """Stop it; 1 if it has ended before, or never came so far."""
    os.nice(-20)  # CRIU writes for a moment only, and other programs are many
    end = time.monotonic() + float(seconds)
    print("ready", flush=True)
    while not any(Path(directory).glob(".stage.*/checkpoint/pages-*.img")):
        if time.monotonic() > end:
            return 1
        time.sleep(0.001)
    for pid in (pids := dumping()):
        os.kill(pid, signal.SIGSTOP)
    return 0 if pids else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
