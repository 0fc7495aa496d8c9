"""What a root file system had in it when a task first ran upon it, so that it can be told what the task has changed.

Kept beside the task's checkpoints, in `rootfs.<node>`, since each node may have a root file system of its own.
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

REALTIME_COARSE = 5  # linux/time.h: the kernel's clock for its own file systems


class Baseline:
    """`begin` is when the task began, in nanoseconds of the file system's own clock; `directories` are {path below the
    root file system, "" for itself: [inode number, [names]]} of that time."""

    def __init__(self, begin: int, directories: dict[str, Directory]) -> None:
        self.begin = begin
        self.directories = directories

    def inode(self, directory: str) -> int:
        """The inode number of a directory; 0 where it was none."""
        return self._of(directory)[0]

    def names(self, directory: str) -> list[str]:
        """What was in a directory; nothing where it was none."""
        return self._of(directory)[1]

    def _of(self, directory: str) -> Directory:
        return self.directories.get(directory, (0, []))

    def below(self, directory: str) -> Iterator[str]:
        """The paths of all that was in a directory, at any depth."""
        for name in self.names(directory):
            path = join(directory, name)
            yield path
            yield from self.below(path)


def join(directory: str, name: str) -> str:
    """The path of `name` in a directory below the root file system."""
    return f"{directory}/{name}" if directory else name


def note(task: str, rootfs: str) -> None:
    """Write down in the task's directory what there is, unless that was done when it first ran upon `rootfs`."""
    if find(task, rootfs) is None:
        begin = _now(rootfs)  # first: what changes meanwhile has changed since
        document = {"rootfs": _identity(rootfs), "begin": begin, "directories": dict(_walk(rootfs))}
        files.write_json(_file(task), document)


def find(task: str, rootfs: str) -> Baseline | None:
    """What was noted of `rootfs` on this node; None where nothing was."""
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
        os.chmod(rootfs, stat.S_IMODE(os.stat(rootfs).st_mode))  # a change like any other, but that nothing changes
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
            continue  # what can't be seen is not missed later
        yield directory, (inode, names)
