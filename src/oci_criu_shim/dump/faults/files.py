"""Open and mapped files that a restore could not open again, or not make again."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from oci_criu_shim import config, units
from oci_criu_shim.dump.proc import DELETED
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.proc import Descriptor, Process
    from oci_criu_shim.dump.survey import Survey

ACCESS = (os.R_OK, os.W_OK, os.R_OK | os.W_OK)  # by the flags of a descriptor
OPEN, MAPPED = "has {} open", "has {} mapped"  # how a process uses a file
PLACES = {"cwd": "is in {}", "root": "has its root in {}", "exe": "runs {}"}
MEMORY = "/memfd:"  # how the path of a file without any name begins


def _nameless(survey: Survey) -> Iterator[tuple[Process, str, str, Descriptor | None]]:
    """Yield (process, how it uses it, the name that it had, its descriptor) of files and directories that have lost the
    name they were opened by."""
    own = {mount.id for mount in survey.mounts}
    devices = {mount.device for mount in survey.mounts}
    for each in survey.processes:
        for descriptor in each.descriptors:
            if _is_nameless(survey, descriptor.link) and descriptor.info.get("mnt_id") in own:
                yield each, OPEN, descriptor.link.removesuffix(DELETED), descriptor
        for kind, path in each.places.items():
            if _is_nameless(survey, path) and not path.startswith(MEMORY):
                yield each, PLACES[kind], path.removesuffix(DELETED), None
    for each in survey.leaders:
        for device, path in each.mapped_oddly:
            if device in devices and _is_nameless(survey, path):
                yield each, MAPPED, path.removesuffix(DELETED), None


def _is_nameless(survey: Survey, path: str) -> bool:
    # The name of a file that is there may itself end so.
    return path.endswith(DELETED) and path.startswith("/") and not os.path.lexists(survey.path(path))


def lost(survey: Survey) -> Iterator[ShimError]:
    """Yield deleted files in a directory where a restore may make none: CRIU makes them there again, for a moment."""
    for each, how, name, _ in _nameless(survey):
        source = survey.source(name)
        if source and not _may_make(survey, source):
            yield ShimError(
                f"{each} {how.format(name)}, which was deleted or replaced: a restore makes it there again, and may not"
                f" write to {os.path.dirname(name)}",
                "start the program again: it then has the new one",
            )


def _may_make(survey: Survey, source: str) -> bool:
    """Return whether a restore may make a file at `source` on the node, or the directories above that are missing."""
    directory = os.path.dirname(source)
    while True:
        try:
            found = os.stat(directory)
        except FileNotFoundError:
            directory = os.path.dirname(directory)
            continue
        except OSError:
            return True  # it can't be known
        break
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return False
    if survey.has_ids(found):
        return True
    if survey.is_users:
        return os.access(directory, os.W_OK | os.X_OK)
    return not ~found.st_mode & (stat.S_IWOTH | stat.S_IXOTH)  # root's ids inside are others outside


def _regular(survey: Survey) -> Iterator[tuple[Descriptor, str, os.stat_result]]:
    for _, _, name, descriptor in _nameless(survey):
        if descriptor and descriptor.stat and stat.S_ISREG(descriptor.stat.st_mode):
            yield descriptor, name, descriptor.stat


def large(survey: Survey) -> Iterator[ShimError]:
    """Yield deleted files that are larger than a dump keeps."""
    for descriptor, name, found in _regular(survey):
        if not found.st_nlink and found.st_blocks * 512 > criu.GHOST_LIMIT:
            size = f"{found.st_blocks * 512 / (1 << 30):.1f} GiB"
            yield ShimError(
                f"{descriptor.process} has {name} open, which was deleted and has {size}: a dump keeps up to"
                f" {criu.GHOST_LIMIT >> 30} GiB of such a file",
                "don't delete it while it is open",
            )


def crowded(survey: Survey) -> Iterator[ShimError]:
    """Yield a fault if the files in the directories that a bare task has for itself are more than the site lets a
    checkpoint have."""
    if not survey.bundle.own_places:
        return
    limit = config.load().bare_tmp
    statuses = [os.statvfs(survey.path(place)) for place in survey.bundle.own_places]
    used = sum((status.f_blocks - status.f_bfree) * status.f_frsize for status in statuses)
    if used > limit:
        size, name = max(_sizes(survey), default=(0, ""))
        yield ShimError(
            f"the files in {' '.join(survey.bundle.own_places)} have {units.size(used)}, and the site's limit is"
            f" {units.size(limit)} (bare-tmp); the largest is {name}, of {units.size(size)}",
            "have the program keep them elsewhere",
        )


def _sizes(survey: Survey) -> Iterator[tuple[int, str]]:
    """Yield (bytes, path) of the files in the directories that a bare task has for itself."""
    base = survey.path("/").rstrip("/")
    for place in survey.bundle.own_places:
        for directory, _, names in os.walk(base + place):
            for path in (os.path.join(directory, name) for name in names):
                with suppress(OSError):
                    yield os.lstat(path).st_blocks * 512, path.removeprefix(base)


def renamed(survey: Survey) -> Iterator[ShimError]:
    """Yield files whose name was deleted and that have another one.

    CRIU gives them a third one, which it removes when a dump is over that leaves the container running. Others' files
    get no name from a user (fs.protected_hardlinks).
    """
    for descriptor, name, found in _regular(survey):
        mount = mounts.deepest(name, survey.mounts)
        if not found.st_nlink or (mount and mount.kind == "overlay"):
            continue  # CRIU takes one of an overlay for a deleted one if need be
        if survey.runs_on:
            yield ShimError(
                f"{descriptor.process} has {name} open, a name that was removed, and the file has another one: it is"
                " kept only if the container ends by its checkpoint",
                "at a preemption, it is checkpointed all the same",
            )
        elif survey.is_users and not (found.st_uid == os.geteuid() or os.access(descriptor.path, ACCESS[2])):
            yield ShimError(
                f"{descriptor.process} has {name} open, a name that was removed, and the file, which has another one,"
                " belongs to somebody else",
                "open it by the name that it has",
            )


def unopenable(survey: Survey) -> Iterator[ShimError]:
    """Yield files and directories that a user could not open once more."""
    yield from _unreadable(survey) if survey.is_users else ()
    for descriptor, found in _open(survey) if survey.is_users else ():
        if survey.has_ids(found):
            continue
        flags = int(descriptor.info.get("flags", "0"), 8)
        source = survey.source(descriptor.link)
        if source and not flags & os.O_PATH and _denies(source, ACCESS[min(flags & os.O_ACCMODE, 2)]):
            yield ShimError(
                f"{descriptor.process} has {descriptor.link} open, which it could not open again: it belongs to"
                " somebody else, and its permissions have changed",
                "have the program close it, or its owner permit it",
            )


def _unreadable(survey: Survey) -> Iterator[ShimError]:
    """Yield directories that processes are in and may not read: CRIU opens them for reading."""
    users = {(kind, each.places[kind]): each for each in reversed(survey.processes) for kind in ("cwd", "root")}
    for (kind, path), each in users.items():
        source = survey.source(path) if path and not path.endswith(DELETED) else None
        if source and _denies(source, os.R_OK) and not survey.has_ids(os.stat(source)):
            yield ShimError(
                f"{each} {PLACES[kind].format(path)}, which it may not read: a restore could not open it",
                "have it work in a directory that it may read",
            )


def _denies(path: str, mode: int) -> bool:
    return os.path.exists(path) and not os.access(path, mode)


def covered(survey: Survey) -> Iterator[ShimError]:
    """Yield files that their path no longer leads to, or only by another mount, since something is mounted over them.

    CRIU opens no file on a mount that another one covers (criu/files-reg.c, 4.2).
    """
    processes = {mount.device for mount in survey.mounts if mount.kind == "proc"}  # whose files come and go
    own, hidden = {mount.id for mount in survey.mounts}, mounts.hidden(survey.mounts)
    for descriptor, found in _named(survey):
        seen = _seen(survey, descriptor)
        if isinstance(seen, PermissionError) or _device(found) in processes:
            continue
        is_same = isinstance(seen, os.stat_result) and (seen.st_dev, seen.st_ino) == (found.st_dev, found.st_ino)
        is_simple = isinstance(seen, os.stat_result) and _is_file(found)
        if is_same and (not hidden or descriptor.info.get("mnt_id") not in hidden):
            continue
        if (is_same or is_simple or descriptor.info.get("mnt_id") in own) and not descriptor.has_moved:
            now = "something else is at that path now" if isinstance(seen, os.stat_result) else "it is not there"
            yield ShimError(
                f"{descriptor.process} has {descriptor.link} open, and {now}: something is mounted over it",
                "have the program close it before it mounts anything there",
            )


def _seen(survey: Survey, descriptor: Descriptor) -> os.stat_result | OSError:
    """Return what is at the path of an open file now, or why it can't be known."""
    try:
        return os.lstat(_seen_at(survey, descriptor))
    except OSError as error:
        return error


def unreachable(survey: Survey) -> Iterator[ShimError]:
    """Yield what a user's processes use in a directory that the user may not search, though the container's root may:
    CRIU looks for it by its path, with the user's rights."""
    for descriptor, found in _with_path(survey) if survey.is_users else ():
        if found.st_nlink and isinstance(_seen(survey, descriptor), PermissionError):
            yield _closed(f"{descriptor.process} {OPEN.format(descriptor.link.removesuffix(DELETED))}")
    users = {(kind, each.places[kind]): each for each in reversed(survey.processes) for kind in PLACES}
    for (kind, path), each in users.items() if survey.is_users else ():
        if each.namespace("mnt") == survey.init.namespace("mnt") and _may_not_search(survey.path(path)):
            yield _closed(f"{each} {PLACES[kind].format(path)}")
    for mount in survey.mounts if survey.is_users else ():
        if mount.kind == "tmpfs" and _may_not_search(survey.path(mount.point)):
            yield _closed(f"a tmpfs is mounted at {mount.point}")


def _may_not_search(path: str) -> bool:
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _closed(said: str) -> ShimError:
    said = f"{said}, in a directory that only the container's root may search: a dump could not find it there"
    return ShimError(said, "let the directory's owner search it (chmod u+x)")


def _seen_at(survey: Survey, descriptor: Descriptor) -> str:
    """Return the path on the node of what is at the path of an open file, where its process sees it.

    A process in a mount namespace of its own may have it from there. If its root directory is another one, too, it is
    nowhere: CRIU will see.
    """
    each = descriptor.process
    is_elsewhere = each.namespace("mnt") != survey.init.namespace("mnt")
    name = descriptor.link.removesuffix(DELETED)
    if not is_elsewhere or descriptor.info.get("mnt_id") in {mount.id for mount in survey.mounts}:
        return survey.path(name)
    return f"{each.path}/root{name}" if each.places["root"] == "/" else ""


def outside(survey: Survey) -> Iterator[ShimError]:
    """Yield files on mounts that the container doesn't have, or no longer, as after `umount --lazy`."""
    devices = {mount.device for mount in survey.mounts}
    everywhere = [*survey.mounts, *(mount for _, theirs in survey.mounts_apart for mount in theirs)]
    own = {mount.id for mount in everywhere}
    for descriptor, found in _open(survey):
        if _device(found) in devices:
            continue
        # Their device numbers differ on some file systems, and the mounts' in another namespace.
        is_here = descriptor.process.namespace("mnt") == survey.init.namespace("mnt")
        if is_here and descriptor.info.get("mnt_id") not in {*own, None}:
            yield ShimError(
                f"{descriptor.process} has {descriptor.link} open, which is on none of the container's mounts",
                "have the program close it before it unmounts it, or its caller not hand it on",
            )


def _open(survey: Survey) -> Iterator[tuple[Descriptor, os.stat_result]]:
    """Yield the open files and directories that have a name."""
    return ((descriptor, found) for descriptor, found in _named(survey) if _is_file(found))


def _named(survey: Survey) -> Iterator[tuple[Descriptor, os.stat_result]]:
    """Yield the open files, directories, FIFOs and devices that have a name."""
    return ((descriptor, found) for descriptor, found in _with_path(survey) if not descriptor.link.endswith(DELETED))


def _with_path(survey: Survey) -> Iterator[tuple[Descriptor, os.stat_result]]:
    """Yield what is open and has a name, or had one."""
    for each in survey.processes:
        for descriptor in each.descriptors:
            if descriptor.link.startswith("/") and descriptor.stat:
                yield descriptor, descriptor.stat


def _is_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)


def _device(found: os.stat_result) -> str:
    return f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"


def private(survey: Survey) -> Iterator[ShimError]:
    """Yield files in a /tmp or /dev/shm of the node's that are the job's alone: they are gone when it is requeued."""
    places = list(_of_the_job(survey))
    for each, how, path in _used(survey) if places else ():
        source = survey.source(path.removesuffix(DELETED))
        for place in places if source else ():
            if source == place or str(source).startswith(f"{place}/"):
                yield ShimError(
                    f"{each} {how.format(path)}, in the node's {place}, which is this job's alone and gone when the"
                    " job is requeued (job_container/tmpfs)",
                    f"keep it elsewhere, or bind another directory in place of {place}",
                )


def _used(survey: Survey) -> Iterator[tuple[Process, str, str]]:
    """Yield (process, how it uses it, path) of files and directories."""
    for each in survey.processes:
        yield from ((each, OPEN, descriptor.link) for descriptor in each.descriptors if descriptor.link[0] == "/")
        yield from ((each, PLACES[kind], path) for kind, path in each.places.items() if path)
        yield from ((each, MAPPED, path) for _, path in each.mapped)


def _of_the_job(survey: Survey) -> Iterator[str]:
    """Yield the directories of the node's that Slurm's job_container/tmpfs has made for this job.

    It mounts BASEPATH/JOB/.JOB/_tmp on /tmp, and a tmpfs without any flags on /dev/shm.
    """
    job = survey.bundle.environment().get("SLURM_JOB_ID")
    found = [mount for mount in survey.node if job and f"/{job}/.{job}/" in mount.root]
    yield from {mount.point for mount in found}
    if found and any(m.point == "/dev/shm" and m.kind == "tmpfs" and "nosuid" not in m.options for m in survey.node):
        yield "/dev/shm"
