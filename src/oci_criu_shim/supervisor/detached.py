"""Restoring a container that others look after, as podman's conmon and Docker's containerd do.

It gets our own streams, and nobody of ours stays with it: when we end, its init is the child of our caller.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.restore.adopt import Restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.restore.plan import Asked
    from oci_criu_shim.supervisor.lifecycle import Plan


class Streams:
    """Our own, in the place of pipes that would be relayed (stdio.Stdio).

    Those of the container led to `before`. Where its input was a pipe and ours is the node's /dev/null, it reads what
    it had not read yet, `pending`, and the end: the node's would lead out of it, and no further dump could be made.
    """

    def __init__(self, console: str | None, before: list[str], pending: bytes) -> None:
        self.inside = {number: number for number in range(3)}
        if before[0].startswith("pipe:") and _link(0) == os.devnull:
            self.inside[0] = _pipe_with(pending)
        self.console = _connect(console) if console else None

    def attach(self, master: int) -> None:
        """Send a terminal's master to the caller's socket, as runc does (its docs/terminals.md)."""
        import socket

        if self.console is None:
            raise ShimError("the container had a terminal", "set process.terminal in config.json")
        socket.send_fds(self.console, [b"/dev/ptmx"], [master])
        os.close(master)
        self.console.close()

    def record(self, before: list[str]) -> list[str]:
        """Where the container's lead now: those that were pipes are ours."""
        return [_link(self.inside[n]) if name.startswith("pipe:") else name for n, name in enumerate(before)]


def _pipe_with(text: bytes) -> int:
    """The end to read of a pipe that nobody writes to any more."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return reader


def _connect(path: str) -> socket.socket:
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        hint = "whoever is to have the terminal must listen there"
        raise ShimError(f"--console-socket {path}: {error.strerror}", hint) from None
    return connection


def _link(number: int) -> str:
    return os.readlink(f"/proc/self/fd/{number}")


def start(plan: Plan, checkpoint: Checkpoint, asked: Asked, streams: Streams) -> int:
    """Restore `checkpoint` as the container of `plan`, whose id is reserved, on `streams`; the exit status."""
    container = plan.container
    try:
        restored = Restored(plan, checkpoint, plan.log)
        record = plan.record(stdio={"streams": streams.record(checkpoint.manifest["streams"])})
        container.save({**record, **restored.backend.record()})
        pid = restored.start(streams, asked)
        try:
            _tell(plan, pid)
        except OSError:
            restored.end(pid)
            raise
    except (ShimError, OSError):
        container.release()
        raise
    return 0


def _tell(plan: Plan, pid: int) -> None:
    """Tell the caller, and whoever asks later, of the container's init."""
    plan.container.update(init=process.identity(pid))
    if plan.pid_file:
        files.write_atomically(plan.pid_file, str(pid).encode(), 0o644)
