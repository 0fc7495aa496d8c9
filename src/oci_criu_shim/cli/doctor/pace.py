"""Check the directory `pace-dir`, whose files checkpoints wait for."""

from __future__ import annotations

import os
import stat

from oci_criu_shim.cli.doctor import roots, settings
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host import mounts
from oci_criu_shim.task import pace

MAKE = "docs/pacing.md has the line that makes it"
EVERYBODY = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
LOCAL = {"nolock", "local_lock=all", "local_lock=posix", "localflock"}  # mount options of NFS and Lustre


def check() -> str:
    """Check that everybody can lock the files, nobody can take them away, and other nodes see the locks."""
    directory = settings.usable()[0].pace_dir
    if not directory:
        raise Skipped("none: checkpoints of many jobs are written at once", "if they are late then: docs/pacing.md")
    try:
        found = pace.files(directory)
        roots.require(directory, "who can write there can take its files away, and no checkpoint waits any more")
        for path in found:
            _require(path)
    except OSError as error:
        raise ShimError(f"no checkpoint waits for others: {line_of(error)}", MAKE) from None
    return f"{len(found)} files in {directory} on {_kind(directory)}"


def _require(path: str) -> None:
    """Raise ShimError if a user can't lock a file, OSError if nobody can."""
    if os.lstat(path).st_mode & EVERYBODY != EVERYBODY:
        raise ShimError(f"{path} can't be locked by all: they need to write it", f"chmod 666 {path}")
    if (descriptor := pace.lock(path)) is not None:
        os.close(descriptor)


def _kind(directory: str) -> str:
    """Return the type of its file system; raise Caution if locks there are of this node only."""
    mount = mounts.deepest(os.path.realpath(directory), mounts.read())
    if mount is None:
        return "an unknown file system"
    options = LOCAL.intersection(mount.super_options)
    if options or mount.kind in mounts.OWN:
        why = f"mounted with {options.pop()}" if options else "which no other node sees"
        said = f"{directory} is on {mount.kind}, {why}: a checkpoint waits for others of its node only"
        raise Caution(
            said, "have it on the file system of the checkpoints, with locks that all nodes share: docs/pacing.md"
        )
    return mount.kind
