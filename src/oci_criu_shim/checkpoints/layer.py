"""Write and read a layer: what has changed in a root file system since a task began. It is two files of a checkpoint,
with podman's names:

    rootfs-diff.tar   files that are new or have changed. `ctime` in their PAX headers is when they were changed; in
                      that of the first member, the root file system itself, it is when the layer was written
    deleted.files     the paths, as JSON, of what was there when the task began and is gone

Whatever is not in its old place is new, including all below a directory that was renamed. Changes that others make in
the same root file system can't be told apart. Sockets and devices are left out, and so is what belongs to another id,
which the user could not make again.
"""

from __future__ import annotations

import os
import stat
import tarfile
import time

from oci_criu_shim import files
from oci_criu_shim.checkpoints import scratch
from oci_criu_shim.checkpoints.baseline import join
from oci_criu_shim.checkpoints.committed import DELETED, LAYER
from oci_criu_shim.checkpoints.tar import NANO, PIECE, header, padding, pax_time, time_of
from oci_criu_shim.errors import ShimError, cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

    from oci_criu_shim.checkpoints.baseline import Baseline

VANISHED = (FileNotFoundError, NotADirectoryError)  # others change the root file system, too


class Changes:
    """Changes in `rootfs` since `baseline`, except below the mount points `covered`, and everything that is
    `inherited`: the paths, and the deleted paths, of the layer that the task went on from. All paths are relative."""

    def __init__(
        self, rootfs: str, baseline: Baseline, covered: Iterable[str], inherited: tuple[Iterable[str], Iterable[str]]
    ) -> None:
        self.rootfs = rootfs
        self.baseline = baseline
        self.covered = set(covered)
        self.inherited = set(inherited[0])
        self.gone = set(inherited[1])
        self.skipped = 0  # how many files can't be kept
        self.spared: list[tuple[str, os.stat_result]] = []  # files of several names that have only another ctime

    @property
    def deleted(self) -> list[str]:
        """The paths that are gone, once write() has walked the tree; what was in a directory comes before it."""
        return sorted((path for path in self.gone if not self._exists(path)), reverse=True)

    def _exists(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self.rootfs, path))

    def write(self, path: str) -> None:
        """Write the changes to the new tar file `path`, and flush it."""
        links: dict[tuple[int, int], str] = {}
        top = _member(".", os.stat(self.rootfs), time.time_ns())
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", PIECE) as archive:
            archive.write(header(top))
            for name, status in self._walk():
                try:
                    self._add(archive, name, status, links)
                except VANISHED:
                    pass
                except PermissionError:
                    self.skipped += 1
            for name, status in self.spared:
                if (status.st_dev, status.st_ino) in links:  # it has a new name, under which it is in the layer
                    self._add(archive, name, status, links)
            archive.write(bytes(2 * tarfile.BLOCKSIZE))
            archive.flush()
            os.fsync(archive.fileno())

    def _add(self, archive: IO[bytes], name: str, status: os.stat_result, links: dict[tuple[int, int], str]) -> None:
        member, path = _member(name, status, status.st_ctime_ns), os.path.join(self.rootfs, name)
        key = status.st_dev, status.st_ino
        if stat.S_ISREG(status.st_mode) and key not in links:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as content:
                member.size = status.st_size
                archive.write(header(member))
                _copy(content, archive, member.size)
            links[key] = name
            return
        if stat.S_ISREG(status.st_mode):
            member.type, member.linkname = tarfile.LNKTYPE, links[key]
        elif stat.S_ISLNK(status.st_mode):
            member.linkname = os.readlink(path)
        archive.write(header(member))

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (path, status) of everything to be kept, a directory before what is in it."""
        device = os.stat(self.rootfs).st_dev
        rest = [("", False)]
        while rest:
            directory, moved = rest.pop()
            for name, status, is_new in self._look(directory, moved, device):
                if is_new and self._can_be_kept(status):
                    yield name, status
                if stat.S_ISDIR(status.st_mode) and name not in self.covered:
                    rest.append((name, is_new and self._has_moved(name, status)))

    def _has_moved(self, name: str, status: os.stat_result) -> bool:
        return status.st_ino != self.baseline.inode(name)

    def _look(self, directory: str, moved: bool, device: int) -> Iterator[tuple[str, os.stat_result, bool]]:
        """Yield (path, status, whether it is new or has changed) for everything in a directory. With `moved`, the
        directory is not the one that was in this place."""
        try:
            with os.scandir(os.path.join(self.rootfs, directory)) as scanned:
                entries = {entry.name: entry for entry in scanned if not scratch.is_stage(entry.name)}
        except VANISHED:
            return
        except PermissionError:
            self.skipped += moved or directory in self.inherited
            return
        before = set(self.baseline.names(directory))
        for name in before - entries.keys():
            self._is_gone(join(directory, name))
        for name, entry in entries.items():
            try:
                status = entry.stat(follow_symlinks=False)
            except VANISHED:
                continue
            path = join(directory, name)
            if path in self.baseline.directories and not stat.S_ISDIR(status.st_mode):
                self.gone.update(self.baseline.below(path))
            if status.st_dev == device:  # else it is a mount of the node
                is_new = moved or name not in before or path in self.inherited
                yield path, status, is_new or self._has_changed(directory, name, status)

    def _has_changed(self, directory: str, name: str, status: os.stat_result) -> bool:
        """Return whether what was there has changed. A link or a chown to the same owner changes the ctime alone."""
        if status.st_ctime_ns < self.baseline.begin:
            return False
        if not stat.S_ISREG(status.st_mode) or not self.baseline.is_same(directory, name, status):
            return True
        if status.st_nlink > 1:
            self.spared.append((join(directory, name), status))
        return False

    def _is_gone(self, path: str) -> None:
        self.gone.update((path, *self.baseline.below(path)))

    def _can_be_kept(self, status: os.stat_result) -> bool:
        if status.st_uid != os.geteuid():
            self.skipped += 1
            return False
        return stat.S_IFMT(status.st_mode) in TYPES


TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def _member(name: str, status: os.stat_result, changed: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = TYPES[stat.S_IFMT(status.st_mode)]
    member.mode = stat.S_IMODE(status.st_mode)
    member.uid, member.gid = status.st_uid, status.st_gid
    member.mtime = status.st_mtime_ns // NANO
    member.pax_headers = {"mtime": pax_time(status.st_mtime_ns), "ctime": pax_time(changed)}
    return member


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copy `size` bytes and pad them to a whole block; add zeros if the file was cut meanwhile."""
    left = size
    while left and (piece := source.read(min(left, PIECE))):
        target.write(piece)
        left -= len(piece)
    while left:
        left -= target.write(bytes(min(left, PIECE)))
    target.write(padding(size))


class Layer:
    """The layer in the checkpoint's directory `path`. ShimError is raised if it can't be read."""

    def __init__(self, path: str) -> None:
        self.file = os.path.join(path, LAYER)
        try:
            self.deleted: list[str] = files.read_json(os.path.join(path, DELETED))
            with tarfile.open(self.file, "r:") as archive:
                self.members = archive.getmembers()
        except (OSError, ValueError, tarfile.TarError) as error:
            raise ShimError(f"{self.file} cannot be read: {cause_of(error)}") from None
        for name in (*self.names, *self.deleted, *(member.linkname for member in self.members if member.islnk())):
            if not {"", ".."}.isdisjoint(name.split("/")):
                raise ShimError(f"{self.file}: {name!r} has no place in a root file system")

    @property
    def time(self) -> int:
        """When the layer was written, in nanoseconds."""
        return time_of(self.members[0], "ctime") if self.members else 0

    @property
    def names(self) -> list[str]:
        """The paths of what it has; "." is the root file system itself."""
        return [member.name for member in self.members]
