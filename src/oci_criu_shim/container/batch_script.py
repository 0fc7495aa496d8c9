"""Find and put back the batch script, which Slurm mounts in a container and removes with the job.

A shell goes on reading its script after a restore, even in another job. So a checkpoint has a copy of it, which is
mounted if the script of the job that restores differs. A bare task reads slurmd's own file: CRIU opens another one in
its place.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints.committed import SCRIPT, SPEC
from oci_criu_shim.container.bundle import SCRIPT as PLACE
from oci_criu_shim.host import mounts
from oci_criu_shim.slurm.tasks import BATCH_SCRIPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.bundle import Bundle

MODE = 0o700  # Slurm's, and CRIU compares


def point(bundle: Bundle) -> str:
    """Return the path in a container of `bundle` at which Slurm mounts the script, if it does; a bare task's, if it has
    one."""
    if bundle.is_bare:
        return bundle.annotations.get(PLACE, "")
    return mounts.resolve(bundle.rootfs, BATCH_SCRIPT)


def read(pid: int, bundle: Bundle) -> bytes | None:
    """Return the script of the container with the init `pid`; None if it has none."""
    if bundle.is_bare:
        return _content(f"/proc/{pid}/root{place}") if (place := point(bundle)) else None
    if all(mount["destination"] != BATCH_SCRIPT for mount in bundle.mounts):
        return None
    return _content(f"/proc/{pid}/root{point(bundle)}")


def copy(checkpoint: Checkpoint, bundle: Bundle) -> str | None:
    """Return the path of the checkpoint's copy; None if it has none, or if the script of `bundle` is the same."""
    if SCRIPT not in checkpoint.manifest["files"]:
        return None
    path = os.path.join(checkpoint.path, SCRIPT)
    own = bundle.source(point(bundle))
    return None if own and _content(own) == _content(path) else path


def move(checkpoint: Checkpoint, bundle: Bundle, directory: str) -> tuple[str, str]:
    """Return the path at which a bare task had its script, and the one at which it is now; both are empty if it had
    none.

    If the job's own script is another one, a copy is made in `directory`.
    """
    path = os.path.join(checkpoint.path, SCRIPT)
    if SCRIPT not in checkpoint.manifest["files"]:
        return "", ""
    before = files.read_json(os.path.join(checkpoint.path, SPEC))["annotations"][PLACE]
    if (now := point(bundle)) and _content(now) == _content(path):
        return before, now
    copied = os.path.join(directory, SCRIPT)
    files.remove_if_there(copied)  # of an attempt before
    put(path, copied)
    bundle.annotations[PLACE] = copied
    return before, copied


def _content(path: str) -> bytes | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def put(source: str, target: str) -> None:
    """Write the copy `source` to `target`, with the mode of Slurm's script."""
    with open(source, "rb") as stream, open(target, "xb") as made:
        made.write(stream.read())
    os.chmod(target, MODE)
