"""Note what a root file system has in it when a task first runs on it, so that the task's changes can be told later.

The note is kept beside the task's checkpoints, in `rootfs.<node>`, since each node may have a root file system of its
own. A second one, `rootfs.<node>.files`, tells each file's mark, by which it is known again when its ctime alone has
changed, by another name of it say. That takes longer to note, and may come later, or never.
"""

from __future__ import annotations

import os
import stat
import time
import zlib
from functools import cached_property

from oci_criu_shim import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Directory = tuple[int, list[str]]
    """A directory's inode number, and the names in it."""

MARKS = ".files"
NONE = -1  # no file has this mark
REALTIME_COARSE = 5  # linux/time.h: the clock by which the kernel's own file systems note times


class Baseline:
    """A root file system as it was at `begin`, in nanoseconds of the file system's own clock. `directories` has what
    was in each directory then, by its path below the root file system; "" is the root file system itself. The file
    `marks` has {directory: the marks of its names, in their order}."""

    def __init__(self, begin: int, directories: dict[str, Directory], marks: str = "") -> None:
        self.begin = begin
        self.directories = directories
        self.marks = marks

    @cached_property
    def _marks(self) -> dict[str, list[int]]:
        try:
            document = files.read_json(self.marks)
            return document["marks"] if document["begin"] == self.begin else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def is_same(self, directory: str, name: str, status: os.stat_result) -> bool:
        """Return whether a file has the mark that it had, although its ctime is another one."""
        names, marks = self.names(directory), self._marks.get(directory, [])
        return len(names) == len(marks) and marks[names.index(name)] == _mark(status)

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


def note_marks(task: str, rootfs: str) -> None:
    """Note the marks of what note() has noted, unless that was done. OSError is raised if they can't be written.

    Files that have changed meanwhile get none.
    """
    known = find(task, rootfs)
    if known is None or os.path.exists(known.marks):
        return
    marks = {
        directory: [_mark_since(os.path.join(rootfs, directory, name), known.begin) for name in names]
        for directory, (_, names) in known.directories.items()
    }
    files.write_json(known.marks, {"begin": known.begin, "marks": marks})


def _mark_since(path: str, begin: int) -> int:
    try:
        status = os.lstat(path)
    except OSError:
        return NONE
    return _mark(status) if stat.S_ISREG(status.st_mode) and status.st_ctime_ns < begin else NONE


def _mark(status: os.stat_result) -> int:
    """Return a number that is another one if a file was replaced or written, or its owner or its mode was changed."""
    about = status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid, status.st_gid
    return zlib.crc32(repr(about).encode())


def find(task: str, rootfs: str) -> Baseline | None:
    """Return what was noted of `rootfs` on this node; None if nothing was."""
    try:
        document = files.read_json(_file(task))
        if document["rootfs"] == _identity(rootfs):
            return Baseline(document["begin"], document["directories"], f"{_file(task)}{MARKS}")
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
