"""Bring a root file system to the state that a checkpoint's layer (layer.py) has, beside others who use the same one.

Missing files are made. A file that is here is replaced, by one rename, if it was last written before it was changed
there; if it was written later, it stays. A path is removed only if the task had removed it and it was not written since
the checkpoint. No symbolic link is followed, and nothing outside the root file system is touched.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from oci_criu_shim import files
from oci_criu_shim.checkpoints import scratch
from oci_criu_shim.checkpoints.tar import PIECE, time_of
from oci_criu_shim.errors import Misfit, cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator

    from oci_criu_shim.checkpoints.layer import Layer

HINT = "the node needs a root file system like the one that was checkpointed, and room in it"


class Application:
    """Applies `layer` to the directory `rootfs`. Misfit, with the file's name, is raised if something can't be made or
    removed."""

    def __init__(self, layer: Layer, rootfs: str) -> None:
        self.layer = layer
        self.rootfs = rootfs
        self.made: list[tarfile.TarInfo] = []  # directories, whose times are set last

    def run(self) -> None:
        """Remove what the layer has deleted, and make what it has."""
        for path in self.layer.deleted:
            with self._at(path) as (directory, name):
                if directory is not None:
                    _remove(directory, name, self.layer.time)
        with open(self.layer.file, "rb", buffering=0) as archive:
            for member in self.layer.members:
                with self._at(member.name) as (directory, name):
                    if directory is None:
                        raise OSError("its directory is not here")
                    self._make(member, directory, name, archive.fileno())
        for member in reversed(self.made):
            with self._at(member.name) as (directory, name):
                time = time_of(member, "mtime")
                os.utime(name, ns=(time, time), dir_fd=directory, follow_symlinks=False)

    @contextmanager
    def _at(self, path: str) -> Iterator[tuple[int | None, str]]:
        """Open the directory that `path` is in: yield its descriptor, None if it does not exist, and the last part of
        `path`."""
        *parts, name = path.split("/")
        here: int | None = None
        try:
            here = _open_directory(self.rootfs, parts)
            yield here, name
        except OSError as error:
            said = cause_of(error)
            raise Misfit(f"/{path} can't be what it was at the checkpoint here: {said}", HINT) from None
        finally:
            if here is not None:
                os.close(here)

    def _make(self, member: tarfile.TarInfo, directory: int, name: str, archive: int) -> None:
        here = _status(directory, name)
        if here is not None and (self._is_same(member, here, directory, name, archive) or _stays(here, member)):
            return
        if member.isdir():
            self._make_directory(member, here, directory, name)
            return
        temporary = scratch.name()
        files.remove_if_there(temporary, directory)
        try:
            self._make_one(member, directory, temporary, archive)
            if here is not None and stat.S_ISDIR(here.st_mode):
                os.rmdir(name, dir_fd=directory)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            files.remove_if_there(temporary, directory)  # also if it is a second link to the file that is here

    def _make_directory(self, member: tarfile.TarInfo, here: os.stat_result | None, directory: int, name: str) -> None:
        if here is not None and not stat.S_ISDIR(here.st_mode):
            os.unlink(name, dir_fd=directory)
            here = None
        if here is None:
            os.mkdir(name, 0o700, dir_fd=directory)
            self.made.append(member)
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.fchmod(descriptor, member.mode)
        finally:
            os.close(descriptor)

    def _make_one(self, member: tarfile.TarInfo, directory: int, name: str, archive: int) -> None:
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=directory)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=directory)
            os.chmod(name, member.mode, dir_fd=directory)
        elif member.islnk():
            with self._at(member.linkname) as (source, base):
                os.link(base, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
            return
        else:
            _write(member, directory, name, archive)
        time = time_of(member, "mtime")
        os.utime(name, ns=(time, time), dir_fd=directory, follow_symlinks=False)

    def _is_same(self, member: tarfile.TarInfo, here: os.stat_result, directory: int, name: str, archive: int) -> bool:
        if member.islnk():
            with self._at(member.linkname) as (source, base):
                there = _status(source, base)
            return there is not None and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
        if member.issym():
            return stat.S_ISLNK(here.st_mode) and os.readlink(name, dir_fd=directory) == member.linkname
        if stat.S_IMODE(here.st_mode) != member.mode:
            return False
        if member.isreg():
            known = (member.size, time_of(member, "mtime"))
            if not stat.S_ISREG(here.st_mode) or (here.st_size, here.st_mtime_ns) != known:
                return False
            # In an image, all files may have the same time.
            return here.st_ctime_ns == time_of(member, "ctime") or _has_content(member, directory, name, archive)
        return (stat.S_ISDIR if member.isdir() else stat.S_ISFIFO)(here.st_mode)


def _open_directory(root: str, parts: list[str]) -> int | None:
    """Return a descriptor of the directory `parts` below `root`; None if there is none, or a symbolic link is on the
    way."""
    here = os.open(root, os.O_PATH | os.O_DIRECTORY)
    for part in parts:
        try:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            os.close(here)
        here = inner
    return here


def _status(directory: int | None, name: str) -> os.stat_result | None:
    try:
        return None if directory is None else os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _stays(here: os.stat_result, member: tarfile.TarInfo) -> bool:
    """Return whether the file here was written after the layer's was changed there. (Comparing with when that was
    written would be wrong: files that are unpacked or copied can look older than those they replace.) Of a
    directory, times tell nothing: it may just have been emptied."""
    return here.st_mtime_ns >= time_of(member, "ctime") and not stat.S_ISDIR(here.st_mode)


def _has_content(member: tarfile.TarInfo, directory: int, name: str, archive: int) -> bool:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        for offset in range(0, member.size, PIECE):
            size = min(PIECE, member.size - offset)
            if os.pread(descriptor, size, offset) != os.pread(archive, size, member.offset_data + offset):
                return False
    finally:
        os.close(descriptor)
    return True


def _remove(directory: int, name: str, time: int) -> None:
    """Remove what is called `name`, unless it was written after `time`."""
    here = _status(directory, name)
    if here is None:
        return
    if not stat.S_ISDIR(here.st_mode):
        if here.st_mtime_ns < time:
            os.unlink(name, dir_fd=directory)
        return
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):  # it is in use
            raise


def _write(member: tarfile.TarInfo, directory: int, name: str, archive: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    try:
        offset, left = member.offset_data, member.size
        while left:
            sent = os.sendfile(descriptor, archive, offset, left)
            if not sent:
                raise OSError("the layer ends too early")
            offset, left = offset + sent, left - sent
        os.fchmod(descriptor, member.mode)
    finally:
        os.close(descriptor)
