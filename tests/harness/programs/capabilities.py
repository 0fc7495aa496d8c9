"""Runs on a node as root: prints which capabilities the processes of a user hold in the initial user namespace.

`capabilities.py UID` prints `ready` and looks until its input ends. Then it prints each combination once, a line
`PROGRAM CAPEFF CAPPRM` in hexadecimal.
"""

from __future__ import annotations

import os
import select
import sys


def status(pid: str) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as stream:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in stream)}


def look(uid: str, seen: set[str]) -> None:
    """Note every process of `uid` that is in this process's user namespace."""
    ours = os.stat("/proc/self/ns/user").st_ino
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = status(pid)
            if fields["Uid"].split()[1] == uid and os.stat(f"/proc/{pid}/ns/user").st_ino == ours:
                seen.add(f"{fields['Name']} {fields['CapEff']} {fields['CapPrm']}")
        except (FileNotFoundError, ProcessLookupError):
            continue


def main() -> None:
    """Look until the input ends."""
    seen: set[str] = set()
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        look(sys.argv[1], seen)
    print("\n".join(sorted(seen)))


if __name__ == "__main__":
    main()
