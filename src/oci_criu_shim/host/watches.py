"""Find the paths of the files and directories that a container's processes watch by inotify(7) and fanotify(7).

Of a watched file the kernel tells the number only, and CRIU could open it by its handle, but for that it would need
CAP_DAC_READ_SEARCH, and a file system that has such handles: an overlay has none. It takes the paths from an image
instead (criu/irmap.c).
"""

from __future__ import annotations

import os
import re
import time
from collections import deque

from oci_criu_shim.host import mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from oci_criu_shim.host.mounts import Mount

    Watched = tuple[int, int]  # device, as the kernel counts, and number of an inode

CACHE = "irmap-cache"  # in the directory that CRIU works in
LINKS = ("anon_inode:inotify", "anon_inode:[fanotify]")  # in /proc/PID/fd
MARK = re.compile(r"(?:inotify wd:\S+|fanotify) ino:([0-9a-f]+) sdev:([0-9a-f]+) ")  # proc_pid_fdinfo(5)
SECONDS = 5.0  # for all paths; a container runs on meanwhile
MANY = 1024  # files between two looks at the clock


def marks(lines: Iterable[str]) -> Iterator[Watched]:
    """Yield what the lines of a descriptor's fdinfo say of what it watches."""
    for line in lines:
        if match := MARK.match(line):
            yield int(match[2], 16), int(match[1], 16)


def of(pid: int) -> set[Watched]:
    """Return what a process watches; nothing if it has ended."""
    found: set[Watched] = set()
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            if _link(f"/proc/{pid}/fd/{number}") in LINKS:
                with open(f"/proc/{pid}/fdinfo/{number}", encoding="utf-8", errors="replace") as stream:
                    found.update(marks(stream))
    except OSError:
        if process.start_time(pid) is not None:
            raise
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""  # it was closed


def find(init: int, watched: Collection[Watched], seconds: float = SECONDS) -> dict[Watched, str]:
    """Return the paths of `watched`, as the process `init` sees them, of all that are found in that time.

    Only the file systems that they are on are looked through: what is near a mount point or a working directory first.
    """
    found: dict[Watched, str] = {}
    for path in _paths(init, watched, time.monotonic() + seconds) if watched else ():
        if (key := _identity(init, path)) in watched and path.isprintable():
            found.setdefault(key, path if path != "/" else "/.")  # as CRIU wants it
            if len(found) == len(watched):
                break
    return found


def _identity(init: int, path: str) -> Watched:
    try:
        status = os.lstat(f"/proc/{init}/root{path}")
    except OSError:
        return 0, 0  # it is gone meanwhile
    return os.major(status.st_dev) << 20 | os.minor(status.st_dev), status.st_ino


def _paths(init: int, watched: Collection[Watched], limit: float) -> Iterator[str]:
    """Yield paths that may be of what is `watched`, by their inode numbers."""
    mounted = mounts.read(init)
    places = {mount.point: mount for mount in mounted}
    devices = {device for device, _ in watched}
    starts = dict.fromkeys([*_own(init, mounted), *places])
    starts = {path: None for path in starts if (m := mounts.deepest(path, mounted)) and number(m) in devices}
    yield from starts
    numbers = {number for _, number in watched}
    queue, looked = deque(starts), 0
    while queue and time.monotonic() < limit:
        directory = queue.popleft()
        for entry in _entries(f"/proc/{init}/root{directory}"):
            path = f"{directory.rstrip('/')}/{entry.name}"
            looked += 1
            if not looked % MANY and time.monotonic() > limit:
                return
            # Mounts are starts. A link that is watched itself would be followed by CRIU.
            if path in starts or path in places or entry.is_symlink():
                continue
            if entry.inode() in numbers:
                yield path
            if entry.is_dir(follow_symlinks=False):
                queue.append(path)


def number(mount: Mount) -> int:
    """Return the device of a mount, as the kernel counts."""
    major, _, minor = mount.device.partition(":")
    return int(major) << 20 | int(minor)


def _own(init: int, mounted: Collection[Mount]) -> Iterator[str]:
    """Yield the working directories of the processes, as far as they are below a mount of theirs."""
    for pid in process.tree(init):
        path = _link(f"/proc/{pid}/cwd")
        if path.startswith("/") and mounts.deepest(path, mounted) and os.path.isdir(f"/proc/{init}/root{path}"):
            yield path


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a directory; nothing if it can't be read."""
    try:
        with os.scandir(path) as entries:
            yield from entries
    except OSError:
        pass
