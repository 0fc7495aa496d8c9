"""Mounts of a running container that can't be dumped, or not restored."""

from __future__ import annotations

import os

from oci_criu_shim.container import batch_script
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.survey import Survey


def below_binds(survey: Survey) -> Iterator[ShimError]:
    """Yield mounts of a user's that have others of the node's below them."""
    for entry in survey.external if survey.is_users else ():
        if entry["kind"] == "bind":
            bundle = survey.bundle
            source = mounts.bind_source(entry["key"], bundle.mounts, bundle.path, bundle.rootfs)
        elif entry["kind"] == "sysfs":
            source = mounts.node_source("sysfs", entry["root"], survey.node)
        else:
            continue
        if source is not None:
            yield from mounts.faults_below(entry["key"], source, survey.node)


def covered(survey: Survey) -> Iterator[ShimError]:
    """CRIU knows an external mount by its mount point, and takes all mounts there for the same one."""
    points = [mount.point for mount in survey.mounts]
    for entry in survey.external:
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


def queues(survey: Survey) -> Iterator[ShimError]:
    """CRIU 4.2 restores no POSIX message queue (mqueue_dump() in criu/filesystems.c)."""
    for mount in survey.mounts:
        if mount.kind == "mqueue" and (names := os.listdir(survey.path(mount.point))):
            yield ShimError(
                f"there are POSIX message queues, which CRIU can't dump: {' '.join(names[:4])}",
                "have the program remove them (mq_unlink) once it is done with them",
            )


def unnamed_devices(survey: Survey) -> Iterator[ShimError]:
    """Yield devices that are made on a tmpfs that is mounted nowhere, and that config.json doesn't describe."""
    for entry in survey.external:
        if entry["kind"] == "node" and entry["key"] != batch_script.point(survey.bundle):
            try:
                survey.bundle.device(entry["key"])
            except ShimError as error:
                yield error
