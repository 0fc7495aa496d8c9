"""Name the directories that a process writes to and removes, so that others can tell if it ended before it could."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.host import process

STAGE = ".stage."  # how the names of stages begin, which the host, the pid and its start time follow


def name() -> str:
    """Return the name of this process's scratch directories."""
    pid = os.getpid()
    return f"{STAGE}{os.uname().nodename}.{pid}.{process.start_time(pid)}"


def sweep(directory: str) -> None:
    """Remove from `directory` the caller's scratch directories whose processes, on this node, have ended."""
    for entry in os.listdir(directory):
        path = os.path.join(directory, entry)
        if _is_abandoned(entry) and _is_own(path):
            try_to_remove(path)


def try_to_remove(path: str) -> None:
    """Remove a file, or a directory and all in it, as far as that can be done now. On NFS, a file that a process on
    this node has open stays, as .nfsXXXX, until it is closed."""
    try:
        (files.remove_tree if os.path.isdir(path) and not os.path.islink(path) else files.remove_if_there)(path)
    except OSError:
        pass  # the next sweep tries again


def _is_abandoned(entry: str) -> bool:
    host, pid, started = _parts(entry) or ("", 0, 0)
    return host == os.uname().nodename and process.start_time(pid) != started


def is_stage(entry: str) -> bool:
    """Return whether a name is one of a stage."""
    return _parts(entry) is not None


def _parts(entry: str) -> tuple[str, int, int] | None:
    """Return the host, the pid and its start time in the name of a stage; None if it is none."""
    host, *numbers = entry.removeprefix(STAGE).rsplit(".", 2)
    if not entry.startswith(STAGE) or not host or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
        return None
    return host, int(numbers[0]), int(numbers[1])


def _is_own(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except FileNotFoundError:
        return False  # another process was faster
