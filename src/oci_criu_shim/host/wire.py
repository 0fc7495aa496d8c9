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
TOO_LONG = "a message is longer than agreed"
NO_ANSWER = (
    "what takes the checkpoint ended without an answer",
    "it was killed, for want of the job's memory perhaps: dmesg or the node's log says why",
)


def send(connection: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; OSError where the other side is gone, ShimError where it is longer than receive() takes."""
    data = json.dumps(message).encode()
    if len(data) > LIMIT:
        raise ShimError(TOO_LONG)
    socket.send_fds(connection, [data], list(fds))


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
        raise Killed(*NO_ANSWER)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ShimError(TOO_LONG)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShimError(f"a message was not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ShimError("a message was not an object")
    return message, list(fds)
