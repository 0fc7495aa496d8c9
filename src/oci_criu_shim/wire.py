"""Messages between the shim and the privileged worker: JSON in packets, descriptors beside them."""

from __future__ import annotations

import array
import json
import socket

from oci_criu_shim.errors import Killed, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LIMIT = 1 << 16
DESCRIPTORS = 8


def send(connection: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; OSError where the other side is gone."""
    socket.send_fds(connection, [json.dumps(message).encode()], list(fds))


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One message and the descriptors that came with it, which are the caller's to close.

    Raises Killed where the other side is gone, ShimError where it does not keep the form.
    """
    size = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
    data, control, flags, _ = connection.recvmsg(LIMIT, size, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        raise Killed("the other side ended without an answer")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ShimError("a message was longer than agreed")
    try:
        message = json.loads(data)
    except ValueError as error:
        raise ShimError(f"a message was not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ShimError("a message was not an object")
    return message, list(fds)
