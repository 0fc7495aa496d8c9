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

from oci_criu_shim.host import linux, mounts, process

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
    """Return what a process watches; nothing if it has ended, or is about to and has no memory any more."""
    found: set[Watched] = set()
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            if _link(f"/proc/{pid}/fd/{number}") in LINKS:
                found.update(_marked(f"/proc/{pid}/fdinfo/{number}"))
    except OSError:
        if _has_memory(pid):
            raise
    return found


def _marked(path: str) -> list[Watched]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return list(marks(stream))
    except FileNotFoundError:
        return []  # it was closed


def _has_memory(pid: int) -> bool:
    try:
        return "VmSize" in process.status(pid)
    except ProcessLookupError:
        return False


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return ""  # it was closed, or the process has ended


def find(init: int, watched: Collection[Watched], seconds: float = SECONDS) -> dict[Watched, str]:
    """Return the paths of `watched`, as the process `init` sees them, of all that are found in that time.

    Only the file systems that they are on are looked through: what is near a mount point or a working directory first.
    A link that takes a directory's place meanwhile leads nowhere.
    """
    if not watched:
        return {}
    limit = time.monotonic() + seconds
    root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY)
    try:
        return _find(init, root, watched, limit)
    finally:
        os.close(root)


def _find(init: int, root: int, watched: Collection[Watched], limit: float) -> dict[Watched, str]:
    found: dict[Watched, str] = {}
    for path in _paths(init, root, watched, limit):
        if (key := _identity(root, path)) in watched and path.isprintable():
            found.setdefault(key, path if path != "/" else "/.")  # as CRIU wants it
            if len(found) == len(watched):
                break
    return found


def _identity(root: int, path: str) -> Watched:
    try:
        descriptor = linux.open_inside(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return 0, 0  # it is gone meanwhile
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return os.major(status.st_dev) << 20 | os.minor(status.st_dev), status.st_ino


def _paths(init: int, root: int, watched: Collection[Watched], limit: float) -> Iterator[str]:
    """Yield paths that may be of what is `watched`, by their inode numbers."""
    mounted = mounts.read(init)
    places = {mount.point: mount for mount in mounted}
    devices = {device for device, _ in watched}
    near = [point for point, mount in places.items() if number(mount) in devices]
    starts = dict.fromkeys([*_own(init, mounted, devices), *near])
    yield from starts
    numbers = {number for _, number in watched}
    queue, looked = deque(starts), 0
    while queue and time.monotonic() < limit:
        directory = queue.popleft()
        for entry in _entries(root, directory):
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


def _own(init: int, mounted: Collection[Mount], devices: Collection[int]) -> Iterator[str]:
    """Yield the working directories of the processes, as far as they are below a mount of theirs, of the `devices`.

    Others are not touched: they may be on a file system that does not answer.
    """
    for path in dict.fromkeys(_link(f"/proc/{pid}/cwd") for pid in process.tree(init)):
        mount = mounts.deepest(path, mounted) if path.startswith("/") else None
        if mount and number(mount) in devices:
            yield path


def _entries(root: int, path: str) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a directory; nothing if it can't be read."""
    try:
        directory = linux.open_inside(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        pass
    finally:
        os.close(directory)
