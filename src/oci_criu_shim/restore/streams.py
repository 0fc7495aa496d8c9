"""Give a restored container our caller's streams."""

from __future__ import annotations

import fcntl
import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from oci_criu_shim.container.record import Streams


class CallersStreams:
    """Our own streams, as they are, instead of pipes that a supervisor would relay (container/stdio.py).

    The container's streams led to `before`. If one was a pipe and ours is the node's /dev/null, it gets a pipe instead:
    the node's /dev/null would lead out of the container, so that it could not be dumped again. (At a start, the backend
    gives it the container's own.) Its input has what was unread, `pending`, and then the end; its output is read by a
    process that ends with the container. If our input is anything else, `pending` is `lost`: nobody could pass it on
    before that.
    """

    def __init__(self, console: str | None, before: list[str], pending: bytes) -> None:
        self.inside = {number: number for number in range(3)}
        self.lost = len(pending)
        nowhere = [n for n, name in enumerate(before) if name.startswith("pipe:") and _link(n) == os.devnull]
        if 0 in nowhere:
            self.inside[0] = _pipe_with(pending)
            self.lost = 0
        if outputs := [number for number in nowhere if number]:
            self.inside |= dict.fromkeys(outputs, _drained_pipe())
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
        """Return the targets of the container's streams now: those that were pipes are ours."""
        return {
            "streams": [_link(self.inside[n]) if name.startswith("pipe:") else name for n, name in enumerate(before)]
        }


def _pipe_with(text: bytes) -> int:
    """Return the reading end of a pipe that has `text`, and then the end."""
    reader, writer = os.pipe()
    if len(text) > fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(text))  # nobody reads there yet
    os.write(writer, text)
    os.close(writer)
    return reader


def _drained_pipe() -> int:
    """Return the writing end of a pipe that a process reads and forgets, whatever becomes of ours."""
    reader, writer = os.pipe()
    process.spawn(["/bin/cat"], process.ENVIRONMENT, {0: reader}, leads=True)
    os.close(reader)
    return writer


def _connect(path: str) -> socket.socket:
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        hint = "the program that is to get the terminal must listen there"
        raise ShimError(f"--console-socket {path}: {error.strerror}", hint) from None
    return connection


def _link(number: int) -> str:
    return os.readlink(f"/proc/self/fd/{number}")
