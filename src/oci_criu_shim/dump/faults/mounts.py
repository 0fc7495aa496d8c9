"""Mounts of a running container that can't be dumped, or not restored."""

from __future__ import annotations

import os

from oci_criu_shim.container import batch_script
from oci_criu_shim.dump.proc import read
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.survey import Survey

# File systems that CRIU makes anew (fstypes in criu/filesystems.c); overlays, too, but a user may not make them so.
MADE = {"proc", "sysfs", "devtmpfs", "binfmt_misc", "tmpfs", "devpts", "simfs", "pstore", "mqueue", "securityfs"} | {
    *("fusectl", "debugfs", "tracefs", "cgroup", "cgroup2", "aufs", "autofs"),
}


def below_binds(survey: Survey) -> Iterator[ShimError]:
    """Yield mounts of a user's that have others of the node's below them; a bare task has all of the node's."""
    for entry in survey.external if survey.is_users and not survey.bundle.is_bare else ():
        if entry["kind"] == "bind":
            source = survey.binds[entry["key"]]
        elif entry["kind"] == "sysfs":
            source = mounts.node_source("sysfs", entry["root"], survey.node)
        else:
            continue
        if source is not None:
            yield from mounts.faults_below(entry["key"], source, survey.node)


def covered(survey: Survey) -> Iterator[ShimError]:
    """CRIU knows an external mount by its mount point, and takes all mounts there for the same one.

    It makes none for a bare task.
    """
    points = [mount.point for mount in survey.mounts]
    for entry in survey.external if not survey.bundle.is_bare else ():
        if points.count(entry["key"]) > 1:
            yield ShimError(
                f"another mount covers the node's mount at {entry['key']}, and a restore can't tell them apart",
                "leave one of the two out of config.json's mounts",
            )


def shared(survey: Survey) -> Iterator[ShimError]:
    """Yield mounts that share a peer group with the node: they would come back in a group of their own."""
    theirs = {mount.shared for mount in survey.node if mount.shared}
    for mount in survey.mounts:
        if mount.shared in theirs:
            yield ShimError(
                f"anything mounted below {mount.point} is seen on the node as well (rshared), which a restore"
                " can't bring back",
                "use rslave or rprivate in the mount's options",
            )


def propagated(survey: Survey) -> Iterator[ShimError]:
    """Yield mounts that came to a peer of where they were made, and share otherwise than there by now.

    CRIU has such a mount propagate again, and makes it private at most (propagate_mount() in criu/mount.c, 4.2).
    """
    found = [*survey.mounts, *(mount for _, theirs in survey.mounts_apart for mount in theirs)]
    groups = {mount.id: mount for mount in found if mount.shared}
    seen: dict[tuple[str, ...], tuple[str | None, str | None]] = {}
    for mount in found if groups else ():
        above = groups.get(mount.parent)
        if above and (mount.shared or mount.master):
            below = above.root.rstrip("/") + mount.point[len(above.point.rstrip("/")) :]
            key, sharing = (str(above.shared), below, mount.device, mount.root), (mount.shared, mount.master)
            if seen.setdefault(key, sharing) != sharing:
                yield ShimError(
                    f"the mount at {mount.point} came there from another one that shares with {above.point}, and was"
                    " made to share with others than that (MS_SLAVE, MS_SHARED), which CRIU can't restore",
                    "leave it as it came, or make it private",
                )


def queues(survey: Survey) -> Iterator[ShimError]:
    """CRIU 4.2 restores no POSIX message queue (mqueue_dump() in criu/filesystems.c)."""
    for mount in survey.mounts:
        if mount.kind == "mqueue" and (names := os.listdir(survey.path(mount.point))):
            yield ShimError(
                f"there are POSIX message queues, which CRIU can't dump: {' '.join(names[:4])}",
                "have the program remove them (mq_unlink) once it is done with them",
            )


def handlers(survey: Survey) -> Iterator[ShimError]:
    """Yield what a program has registered with a binfmt_misc of its own: a usual CRIU does not look for it
    (CONFIG_BINFMT_MISC_VIRTUALIZED in criu/filesystems.c, 4.2)."""
    for mount in survey.mounts:
        if mount.kind == "binfmt_misc" and mount.device not in {each.device for each in survey.node}:
            names = set(os.listdir(survey.path(mount.point))) - {"register", "status"}
            if names:
                yield ShimError(
                    f"there are interpreters registered at {mount.point} (binfmt_misc), which CRIU can't restore:"
                    f" {' '.join(sorted(names)[:4])}",
                    "start the programs by their interpreters",
                )


def unnamed_devices(survey: Survey) -> Iterator[ShimError]:
    """Yield devices that are made on a tmpfs that is mounted nowhere, and that config.json doesn't describe."""
    for entry in survey.external:
        if entry["kind"] == "node" and entry["key"] != batch_script.point(survey.bundle):
            try:
                survey.bundle.device(entry["key"])
            except ShimError as error:
                yield error


def foreign(survey: Survey) -> Iterator[ShimError]:
    """Yield mounts of the node's files that a restore would make from other ones than these, or from none.

    Programs and hooks make such mounts; a restore knows those of config.json, and what is mounted below their sources.
    """
    named = {batch_script.point(survey.bundle), *survey.bundle.mount_points}
    for key, source in survey.binds.items():
        if key in named or survey.is_masked(key):
            continue
        if source is None:
            yield ShimError(
                f"{key} is a mount of the node's files that is not in config.json: a program or a hook made it",
                "put it into config.json's mounts",
            )
        elif survey.is_other(key, source):
            yield ShimError(
                f"{key} is a mount of other files than those of {source}, which a restore would mount there:"
                " a program or a hook made it",
                "put it into config.json's mounts",
            )


def elsewhere(survey: Survey) -> Iterator[ShimError]:
    """Yield mounts in mount namespaces of programs' own that CRIU can neither make anew nor take from here."""
    outer = [mount for mount in survey.mounts if mount.point not in survey.inner]
    devices = {mount.device for mount in survey.node}
    for each, theirs in survey.mounts_apart:
        for mount in theirs:
            is_made = mount.device not in devices and mount.kind.partition(".")[0] in MADE
            is_lost = mount.is_removed and not os.path.isdir(f"{each.path}/root{mount.point}")
            if is_lost or not (is_made or mounts.within(mount, outer)):
                yield ShimError(
                    f"{each} has a mount at {mount.point}, in a mount namespace of its own, of files that the container"
                    " has nowhere else",
                    "mount it for the whole container",
                )


def named_elsewhere(survey: Survey) -> Iterator[ShimError]:
    """Yield sockets with a name in such a mount namespace only.

    CRIU, which may not ask a user's socket where it is, looks in the container's own (unix_resolve_name_old() in
    criu/sk-unix.c, 4.2), and takes its name for removed.
    """
    for each in survey.apart if survey.is_users else ():
        inodes = {each.link[len("socket:[") : -1] for each in each.descriptors if each.is_socket}
        rows = (line.split(" ", 6) for line in read(f"{each.path}/net/unix").splitlines())
        for inode, _, name in (row[-1].strip().partition(" ") for row in rows):
            here, there = _number(survey.path(name)), _number(f"{each.path}/root{name}")
            if inode in inodes and name.startswith("/") and there not in (None, here):
                yield ShimError(
                    f"{each} has a socket named {name} in a mount namespace of its own, which can't be restored",
                    "have it bind the socket in a directory of the container's",
                )


def _number(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unmakable(survey: Survey) -> Iterator[ShimError]:
    """Yield mounts of file systems that are the container's own, and that CRIU can't make anew."""
    outside = {"/", *survey.inner, *(entry["key"] for entry in survey.external)}
    device = next((mount.device for mount in survey.mounts if mount.point == "/"), None)
    devices = {device, *(mount.device for mount in survey.node if survey.bundle.is_bare)}
    made = MADE if survey.is_users else {*MADE, "overlay"}
    for mount in survey.mounts:
        if mount.point in outside or mount.device in devices or mount.kind.partition(".")[0] in made:
            continue
        yield ShimError(
            f"{mount.point} is a mount of the type {mount.kind} that was made in the container, which can't be made"
            " again at a restore",
            "have the node mount it, and bind it in config.json's mounts",
        )
