"""Note the lengths of the regular files that a container has open for writing, and have on disk what they hold.

A restore cuts off what came after the checkpoint (restore/rollback.py).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from oci_criu_shim.host import mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.checkpoints.manifest import Written

DELETED = " (deleted)"
# What a process or a descriptor gives that is gone, or another one, since it was found.
MOVING = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EINVAL)


def look(init: int) -> list[Written]:
    """What a manifest says of the files that a container's processes, which are frozen, have open for writing:

    `mount` (where it is mounted in the container), `name` (below that), `size`, `inode`, and for files that are
    appended to, `others`: whether somebody else did so last. Files without a name, and on file systems that are the
    container's own, are CRIU's to keep.
    """
    found: dict[tuple[int, int], tuple[str, str, os.stat_result]] = {}
    ends: dict[tuple[int, int], set[int]] = {}
    points: dict[str, str] = {}
    for path, status in _descriptors(init):
        points = points or _points(init)
        fields = _fdinfo(path.replace("/fd/", "/fdinfo/"))
        name, point = os.readlink(path), points.get(fields["mnt_id"])
        if point is None or name.endswith(DELETED):
            continue
        key = status.st_dev, status.st_ino
        found[key] = point, name.removeprefix(point).lstrip("/"), status
        if int(fields["flags"], 8) & os.O_APPEND:
            ends.setdefault(key, set()).add(int(fields["pos"]))
    return [_row(*file, ends.get(key)) for key, file in found.items()]


def _row(point: str, name: str, status: os.stat_result, ends: set[int] | None) -> Written:
    row: Written = {"mount": point, "name": name, "size": status.st_size, "inode": status.st_ino}
    # A position of 0 says nothing: nothing was written by that descriptor yet.
    return row if ends is None else {**row, "others": max(ends) not in (0, status.st_size)}


def sync(init: int, frozen: bool) -> None:
    """Have on disk what these files hold. Where the node fails, nobody else has it. Until all is `frozen`, processes
    and descriptors come and go, and what is missed of them is for then."""
    forgiven = () if frozen else MOVING
    for path, _ in _descriptors(init, forgiven):
        with _forgiving(forgiven):
            _sync(path)


def _sync(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except PermissionError:
        return  # it belongs to somebody else by now
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _descriptors(init: int, forgiven: tuple[int, ...] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """(/proc/PID/fd/N, status) of the regular files with a name that are open for writing. What can't be looked at for
    an error of those `forgiven` is left out."""
    for pid in process.tree(init):
        for path in _paths(pid, init, forgiven):
            with _forgiving(forgiven):
                if status := _status(path):
                    yield path, status


def _paths(pid: int, init: int, forgiven: tuple[int, ...]) -> list[str]:
    directory = f"/proc/{pid}/fd"
    try:
        return [f"{directory}/{number}" for number in os.listdir(directory)]
    except OSError as error:
        # Of one that was not waited for since it ended, this is root's, and empty.
        is_zombies = isinstance(error, PermissionError) and pid != init and process.start_time(pid) is None
        if error.errno not in forgiven and not is_zombies:
            raise
        return []


def _status(path: str) -> os.stat_result | None:
    """What is open there, if that is a regular file with a name, for writing (proc_pid_fd(5))."""
    if not os.lstat(path).st_mode & stat.S_IWUSR:
        return None
    status = os.stat(path)
    return status if stat.S_ISREG(status.st_mode) and status.st_nlink else None


@contextmanager
def _forgiving(numbers: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def _points(pid: int) -> dict[str, str]:
    """{id: mount point} of the container's mounts whose files stay where they are when it ends."""
    mounted = mounts.read(pid)
    outside = {"/", *(entry["key"] for entry in mounts.external(mounted, mounts.read()) if entry["kind"] == "bind")}
    return {mount.id: mount.point for mount in mounted if mount.point in outside}


def _fdinfo(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in stream)}
