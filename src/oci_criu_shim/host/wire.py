"""Send and receive messages between the shim and the privileged worker: JSON in packets, descriptors beside them.

    shim                                          worker
    {"op": "dump", …Options}, descriptors   →
                                            ←     {"event": "ready", "criu": …}, a socket, with the option `pages`
    {"op": "pages"} or {"op": "files"}      →
                                            ←     {"event": "dumped", …DumpReport}, while all is frozen
    {"op": "commit"} or {"op": "abort"}     →
                                            ←     {"event": "serves"}, once lazy memory can be asked for
                                            ←     Done or Failed, which may come at any time

The descriptors are a pidfd of the container's init, the directory for images and, if it is another one, CRIU's working
directory. By the socket, CRIU sends memory as to a page server if "pages" is the answer; if not, it writes it itself.
"""

from __future__ import annotations

import array
import json
import socket

from oci_criu_shim.errors import Killed, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal, NotRequired, TypedDict

    from oci_criu_shim.files import Document
    from oci_criu_shim.host.external import External

    # The closed set that the worker takes (worker.py). Those from tcp_established on are root's only.
    Options = TypedDict(
        "Options",
        {
            "leave_running": bool,
            "track_mem": bool,
            "incremental": bool,
            "seal": str,
            "tcp_close": bool,
            "inner": list[str],
            "bare": bool,
            "pages": bool,
            "tcp_established": bool,
            "ext_unix_sk": bool,
            "shell_job": bool,
            "lazy_pages": bool,
            "pre_dump": bool,
            "page_server": tuple[str, int],
            "network_lock": Literal["IPTABLES", "NFTABLES", "SKIP"],
            "network": Literal["joined", "dumped"],
            "empty_ns": int,
            "for": Literal["crun", "runc"],
            "ghost_limit": int,
            "timeout": int,
            "log_level": int,
        },
        total=False,
    )

    class DumpReport(TypedDict):
        """Facts about a container that is dumped and still frozen.

        `clock` is what clocks.now() gave when it froze, `frozen_ns` is how long ago that was, `criu` is CRIU's version,
        and `seal` knows the images again (privileged/seal.py).
        """

        clock: dict[str, int]
        frozen_ns: int
        external: list[External]
        criu: str
        network: Literal["shared", "own"]
        seal: NotRequired[str]

    class Done(TypedDict):
        """A dump has succeeded; `frozen_ns` is for how long the container was frozen."""

        event: Literal["done"]
        frozen_ns: int

    class Failed(TypedDict):
        """A dump has failed; `killed` tells whether CRIU was killed, or the process that asked for the dump."""

        event: Literal["failed"]
        error: str
        hint: str
        killed: bool


LIMIT = 1 << 16
DESCRIPTORS = 8
TOO_LONG = "a message is longer than agreed"
NO_ANSWER = (
    "the worker that takes the checkpoint ended without an answer",
    "it was killed, for want of the job's memory perhaps: dmesg or the node's log says why",
)


def send(connection: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Send one message; OSError if the other side is gone, ShimError if it is longer than receive() takes."""
    data = json.dumps(message).encode()
    if len(data) > LIMIT:
        raise ShimError(TOO_LONG)
    socket.send_fds(connection, [data], list(fds))


def receive(connection: socket.socket) -> tuple[Document, list[int]]:
    """Return one message and the descriptors that came with it, which the caller closes.

    Raise Killed if the other side is gone, ShimError if the message isn't of the agreed form.
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
