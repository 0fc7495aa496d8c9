"""Restore a container that its caller looks after, such as podman's conmon or Docker's containerd.

It gets our own streams, and no process of ours stays with it: when we end, its init becomes the caller's child.
"""

from __future__ import annotations

from oci_criu_shim import files
from oci_criu_shim.container import checkpoint_hook
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.restore.restore import Restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.restore.plan import Asked
    from oci_criu_shim.restore.streams import CallersStreams


def start(plan: Plan, checkpoint: Checkpoint, asked: Asked, streams: CallersStreams) -> int:
    """Restore `checkpoint` as the container of `plan`, whose id is reserved, on `streams`; return the exit status."""
    container = plan.container
    try:
        restored = Restore(plan, checkpoint, plan.log, asked)
        stdio = streams.record(checkpoint.manifest["streams"])
        begun = checkpoint.manifest.get("begun", "")
        container.save({**plan.record(begun), **restored.backend.record(), "stdio": stdio})
        pid = restored.start(streams)
        try:
            _tell(plan, pid)
        except OSError:
            restored.end(pid)
            raise
    except (ShimError, OSError):
        container.release()
        raise
    reason = checkpoint.manifest.get("reason", "")
    checkpoint_hook.tell_of_restore(container, pid, restored.backend, plan.log, reason)
    return 0


def _tell(plan: Plan, pid: int) -> None:
    """Tell the caller, and later verbs, which process is the container's init."""
    plan.container.update({"init": process.identity(pid)})
    if plan.pid_file:
        files.write_atomically(plan.pid_file, str(pid).encode(), 0o644)
