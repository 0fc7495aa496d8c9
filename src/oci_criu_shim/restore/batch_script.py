"""The batch script in a container, which Slurm mounts there and removes with its job.

A shell goes on reading it after a restore, whichever job that is in. So a checkpoint has a copy, which takes its place
where the job's own is another one.
"""

from __future__ import annotations

import os

from oci_criu_shim.checkpoints.committed import SCRIPT
from oci_criu_shim.host import mounts
from oci_criu_shim.slurm.tasks import BATCH_SCRIPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.bundle import Bundle

MODE = 0o700  # Slurm's, and CRIU compares


def point(bundle: Bundle) -> str:
    """Where it is mounted in a container of `bundle`, if it is."""
    return mounts.resolve(bundle.rootfs, BATCH_SCRIPT)


def read(pid: int, bundle: Bundle) -> bytes | None:
    """What the container with the init `pid` has there; None where Slurm has mounted nothing."""
    if all(mount["destination"] != BATCH_SCRIPT for mount in bundle.mounts):
        return None
    return _content(f"/proc/{pid}/root{point(bundle)}")


def copy(checkpoint: Checkpoint, bundle: Bundle) -> str | None:
    """The path of the checkpoint's copy; None where it has none, or that of `bundle` is the same."""
    if SCRIPT not in checkpoint.manifest["files"]:
        return None
    path = os.path.join(checkpoint.path, SCRIPT)
    own = mounts.bind_source(point(bundle), bundle.mounts, bundle.path, bundle.rootfs)
    return None if own and _content(own) == _content(path) else path


def _content(path: str) -> bytes | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def put(source: str, target: str) -> None:
    """Make the copy `source` a script like Slurm's at `target`."""
    with open(source, "rb") as stream, open(target, "xb") as made:
        made.write(stream.read())
    os.chmod(target, MODE)
