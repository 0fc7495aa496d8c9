"""Note what a root file system has in it when a task first runs on it, so that the task's changes can be told later.

The note is kept beside the task's checkpoints, in `rootfs.<node>`, since each node may have a root file system of its
own.
"""

from __future__ import annotations

import os
import stat
import time

from oci_criu_shim import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Directory = tuple[int, list[str]]
    """A directory's inode number, and the names in it."""

REALTIME_COARSE = 5  # linux/time.h: the clock by which the kernel's own file systems note times


class Baseline:
    """A root file system as it was at `begin`, in nanoseconds of the file system's own clock. `directories` has what
    was in each directory then, by its path below the root file system; "" is the root file system itself."""

    def __init__(self, begin: int, directories: dict[str, Directory]) -> None:
        self.begin = begin
        self.directories = directories

    def inode(self, directory: str) -> int:
        """Return a directory's inode number; 0 if there was no such directory."""
        return self._of(directory)[0]

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory; none if there was no such directory."""
        return self._of(directory)[1]

    def _of(self, directory: str) -> Directory:
        return self.directories.get(directory, (0, []))

    def below(self, directory: str) -> Iterator[str]:
        """Yield the paths of everything in a directory, at any depth."""
        for name in self.names(directory):
            path = join(directory, name)
            yield path
            yield from self.below(path)


def join(directory: str, name: str) -> str:
    """Return the path of `name` in a directory below the root file system."""
    return f"{directory}/{name}" if directory else name


def note(task: str, rootfs: str) -> None:
    """Note in the task's directory what `rootfs` has in it, unless that was done when the task first ran on it."""
    if find(task, rootfs) is None:
        begin = _now(rootfs)  # first, so that changes from now on count as changes
        document = {"rootfs": _identity(rootfs), "begin": begin, "directories": dict(_walk(rootfs))}
        files.write_json(_file(task), document)


def find(task: str, rootfs: str) -> Baseline | None:
    """Return what was noted of `rootfs` on this node; None if nothing was."""
    try:
        document = files.read_json(_file(task))
        if document["rootfs"] == _identity(rootfs):
            return Baseline(document["begin"], document["directories"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return None


def _file(task: str) -> str:
    return os.path.join(task, f"rootfs.{os.uname().nodename}")


def _identity(rootfs: str) -> list[int]:
    found = os.stat(rootfs)
    return [found.st_dev, found.st_ino]


def _now(rootfs: str) -> int:
    try:
        os.chmod(rootfs, stat.S_IMODE(os.stat(rootfs).st_mode))  # notes a time, and changes nothing
    except PermissionError:
        return time.clock_gettime_ns(REALTIME_COARSE)
    return os.stat(rootfs).st_ctime_ns


def _walk(rootfs: str) -> Iterator[tuple[str, Directory]]:
    rest = [("", os.stat(rootfs).st_ino)]
    for directory, inode in rest:
        names = []
        try:
            with os.scandir(os.path.join(rootfs, directory)) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        rest.append((join(directory, entry.name), entry.inode()))
        except (PermissionError, FileNotFoundError):
            continue  # a directory that can't be read now is not missed later
        yield directory, (inode, names)
