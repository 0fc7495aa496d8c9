"""Read, make and remove control groups.

crun makes one for each container of root's, and a restore makes it again. A user's container stays in the group that
Slurm made for its task. Limits are set by crun's `update`.
"""

from __future__ import annotations

import errno
import os
import re
import time

from oci_criu_shim.host import mounts

END_SECONDS = 2.0
# Of memory, in versions 2 and 1: the limit, and what is in use.
MEMORY = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
CPUSET = ("cpuset.cpus", "cpuset.mems")  # a new group of version 1 has none, and takes no process without


def of(pid: int | str) -> dict[str, str]:
    """Return {controllers: path} of a process, as in /proc/PID/cgroup; the controllers of version 2 are ""."""
    # A name can have any character but "/" and the newline.
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        return dict(line.rstrip("\n").split(":", 2)[1:] for line in stream)


def has_own(pid: int) -> bool:
    """Return whether a process is in other groups than this one."""
    return of(pid) != of("self")


def frozen(pid: int) -> str | None:
    """Return the directory of the group that keeps a process frozen; None if the process runs."""
    paths = of(pid)
    for mount in mounts.read():
        if mount.kind in ("cgroup", "cgroup2") and mount.controllers in paths:
            directory = mount.point + paths[mount.controllers]
            if _says(directory, "freezer.state", "FROZEN") or _says(directory, "cgroup.events", "frozen 1"):
                return directory
    return None


def _says(directory: str, name: str, line: str) -> bool:
    try:
        return line in _read(os.path.join(directory, name)).splitlines()
    except OSError:
        return False  # no such group here, or no such controller


def processors(pid: int) -> set[int]:
    """Return the numbers of the processors that a process's group may use; none if no group limits them."""
    paths = of(pid)
    for mount in mounts.read():
        if mount.kind in ("cgroup", "cgroup2") and mount.controllers in paths:
            for name in ("cpuset.cpus.effective", "cpuset.effective_cpus"):
                path = f"{mount.point}{paths[mount.controllers]}/{name}"
                if os.path.exists(path):
                    return _numbers(_read(path))
    return set()


def _numbers(text: str) -> set[int]:
    """Return the numbers in "0-3,5" (cpuset(7), List format)."""
    ranges = [[int(number) for number in part.split("-")] for part in text.split(",") if part]
    return {number for part in ranges for number in range(part[0], part[-1] + 1)}


def memory_left() -> int | None:
    """Return how many bytes more this process's groups may take before the kernel ends programs; None without a limit.

    Unused files count as free: the kernel drops them first.
    """
    found = []
    paths = of("self")
    for mount in mounts.read():
        if mount.kind == "cgroup2" or "memory" in mount.controllers.split(","):
            group = paths.get(mount.controllers, "/")
            while group != "/":
                found += _left(mount.point + group)
                group = os.path.dirname(group)
    return min(found, default=None)


def _left(directory: str) -> list[int]:
    """Return [the bytes that a group may take more], or nothing if it has no limit."""
    for limit, used in MEMORY:
        try:
            most = _read(f"{directory}/{limit}")
            if most == "max":
                continue
            files = re.findall(r"^(?:total_)?inactive_file (\d+)", _read(f"{directory}/memory.stat"), re.MULTILINE)
            return [int(most) - int(_read(f"{directory}/{used}")) + max(map(int, files), default=0)]
        except OSError:
            pass  # it is of the other version, has no such controller, or can't be seen here
    return []


def directories(path: str) -> list[str]:
    """Return the directories of a group: in each hierarchy of version 1 with controllers, or else in version 2."""
    hierarchies = [m for m in mounts.read() if m.kind in ("cgroup", "cgroup2") and m.controllers != "name=systemd"]
    version_1 = [mount for mount in hierarchies if mount.controllers]
    return [os.path.normpath(mount.point + path) for mount in version_1 or hierarchies]


def join(path: str) -> None:
    """Make the group `path` in each hierarchy, and put this process into it."""
    for directory in directories(path):
        _make(directory)
        with open(f"{directory}/cgroup.procs", "w", encoding="ascii") as stream:
            stream.write(str(os.getpid()))


def _make(directory: str) -> None:
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    _make(parent)
    enabled = f"{parent}/cgroup.subtree_control"
    if os.path.exists(enabled):
        controllers = _read(f"{parent}/cgroup.controllers").split()
        _write(enabled, " ".join(f"+{name}" for name in controllers))
    os.mkdir(directory)
    for name in CPUSET:
        if os.path.exists(f"{directory}/{name}") and not os.path.exists(enabled):
            _write(f"{directory}/{name}", _read(f"{parent}/{name}"))


def remove(path: str) -> None:
    """Remove the group `path` in each hierarchy; its processes have been killed, and get the time to end."""
    limit = time.monotonic() + END_SECONDS
    for directory in directories(path):
        while not _try_remove(directory) and time.monotonic() < limit:
            time.sleep(0.01)


def _try_remove(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno != errno.ENOENT:
            raise
    return True


def _read(path: str) -> str:
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)
