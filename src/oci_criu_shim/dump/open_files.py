"""Note the lengths of the regular files that a container has open for writing, and flush them to disk.

A restore cuts off anything that was written after the checkpoint (restore/rollback.py). Of files that are only read, or
mapped, it says whether they have changed since: CRIU compares their lengths, and of programs and libraries build IDs.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager

from oci_criu_shim.dump.proc import DELETED
from oci_criu_shim.host import mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.checkpoints.manifest import Read, Written

MANY = 1000
MAPPED = re.compile(r"^\S+ (\S+) \S+ \S+ \S+ +(/.*)$", re.MULTILINE)  # a line of maps with a name
# Errors of a process or a descriptor that is gone, or is another one, since it was found.
MOVING = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EINVAL)


def look(init: int) -> list[Written]:
    """Return what a manifest says of the files that the frozen processes of a container have open for writing:

    `mount` (the mount point in the container; the program may see the file elsewhere), `name` (below that), `size`,
    `inode`, and for files that are appended to, `others`: whether somebody else was the last to append. CRIU keeps the
    files that have no name, or that are on file systems of the container's own.
    """
    found: dict[tuple[int, int], tuple[str, str, os.stat_result]] = {}
    ends: dict[tuple[int, int], set[int]] = {}
    places: dict[str, tuple[str, str, str]] = {}
    for path, status in _descriptors(init):
        places = places or _places(init)
        fields = _fdinfo(path.replace("/fd/", "/fdinfo/"))
        name, place = os.readlink(path), places.get(fields["mnt_id"])
        if place is None or name.endswith(DELETED):
            continue
        key, (seen, point, below) = (status.st_dev, status.st_ino), place
        found[key] = point, os.path.join(below, name.removeprefix(seen).lstrip("/")).rstrip("/"), status
        if int(fields["flags"], 8) & os.O_APPEND:
            ends.setdefault(key, set()).add(int(fields["pos"]))
    return [_row(*file, ends.get(key)) for key, file in found.items()]


def _row(point: str, name: str, status: os.stat_result, ends: set[int] | None) -> Written:
    row: Written = {"mount": point, "name": name, "size": status.st_size, "inode": status.st_ino}
    # A position of 0 says nothing: nothing was written by that descriptor yet.
    return row if ends is None else {**row, "others": max(ends) not in (0, status.st_size)}


def read(init: int) -> list[Read]:
    """Return what a manifest says of the files that a container has open for reading only, or mapped, as it runs.

    Leave out programs and libraries, and what is beyond a thousand.
    """
    mounted, points = mounts.read(init), _points(init).values()
    rows: list[Read] = []
    for name in dict.fromkeys(_read_names(init)):
        mount = mounts.deepest(name, mounted)
        if mount is None or mount.point not in points or len(rows) == MANY:
            continue
        if status := _named(f"/proc/{init}/root{name}"):
            below = name.removeprefix(mount.point).lstrip("/")
            rows.append({"mount": mount.point, "name": below, "modified_ns": status.st_mtime_ns})
    return rows


def only_read(rows: list[Read], written: list[Written]) -> list[Read]:
    """Return the `rows` of files that are not `written` as well."""
    others = {(row["mount"], row["name"]) for row in written}
    return [row for row in rows if (row["mount"], row["name"]) not in others]


def _read_names(init: int) -> Iterator[str]:
    for pid in process.tree(init):
        for path in _paths(pid, init, MOVING):
            with _forgiving(MOVING):
                if os.lstat(path).st_mode & (stat.S_IRUSR | stat.S_IWUSR) == stat.S_IRUSR:
                    yield os.readlink(path)
        rows = set(MAPPED.findall(_maps(pid)))
        programs = {name for mode, name in rows if "x" in mode}
        yield from (name for _, name in rows if name not in programs)


def _maps(pid: int) -> str:
    """Return a process's maps (proc_pid_maps(5)); nothing of a zombie's."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        if process.start_time(pid) is not None:
            raise
        return ""


def _named(path: str) -> os.stat_result | None:
    """Return the status of a regular file; None if that is something else, or has no name any more."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def sync(init: int, frozen: bool) -> None:
    """Flush these files to disk: if the node fails, their unwritten data is lost.

    Until all is `frozen`, processes and descriptors come and go; those that are missed are flushed when it is.
    """
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
    """Yield (/proc/PID/fd/N, status) of the regular files with a name that are open for writing.

    Leave out those that can't be looked at because of an error in `forgiven`.
    """
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
        # A zombie's directory is root's, and empty.
        is_zombies = isinstance(error, PermissionError) and pid != init and process.start_time(pid) is None
        if error.errno not in forgiven and not is_zombies:
            raise
        return []


def _status(path: str) -> os.stat_result | None:
    """Return the status of a regular file with a name that is open there for writing; else None (proc_pid_fd(5))."""
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
    """Return {id: mount point} of the container's mounts whose files stay when it ends."""
    mounted, node = mounts.read(pid), mounts.read()
    outside = {"/", *(entry["key"] for entry in mounts.external(mounted, node) if entry["kind"] == "bind")}
    devices = {mount.device for mount in node}  # a bare task may have covered one of the node's mounts by its own
    return {mount.id: mount.point for mount in mounted if mount.point in outside and mount.device in devices}


def _places(init: int) -> dict[str, tuple[str, str, str]]:
    """Return {id: (its mount point, that of a mount that has its files, the path below that)} of the mounts whose files
    stay when the container ends, also in mount namespaces that programs have made for themselves.
    """
    points, mounted = _points(init), mounts.read(init)
    found = {number: (point, point, "") for number, point in points.items()}
    outer = [mount for mount in mounted if mount.id in points]
    for mount in (mount for pid in _elsewhere(init) for mount in mounts.read(pid)):
        if holder := mounts.within(mount, outer):
            found[mount.id] = mount.point, holder.point, mount.root[len(holder.root.rstrip("/")) :].lstrip("/")
    return found


def _elsewhere(init: int) -> list[int]:
    """Return a process of each of the mount namespaces that the container's programs have made for themselves."""
    found: dict[str, int] = {}
    for pid in process.tree(init):
        with _forgiving(MOVING):
            found.setdefault(os.readlink(f"/proc/{pid}/ns/mnt"), pid)
    return list(found.values())[1:]


def _fdinfo(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in stream)}
