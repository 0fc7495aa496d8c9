"""Give a restored container the streams of our caller."""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from oci_criu_shim.container.record import Streams


class CallersStreams:
    """Our own streams, in the place of pipes that would be relayed (stdio.Stdio).

    Those of the container led to `before`. If its input was a pipe and ours is the node's /dev/null, it reads what it
    had not read yet, `pending`, and the end: the node's would lead out of it, and no further dump could be made.
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

    def record(self, before: list[str]) -> Streams:
        """Return where the container's lead now: those that were pipes are ours."""
        return {
            "streams": [_link(self.inside[n]) if name.startswith("pipe:") else name for n, name in enumerate(before)]
        }


def _pipe_with(text: bytes) -> int:
    """Return the reading end of a pipe with `text` in it that nobody writes to any more."""
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
