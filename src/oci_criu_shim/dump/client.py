"""Have a dump done, as the user: by the step's privileged helper, or, as root, by a worker of our own."""

from __future__ import annotations

import os
import socket
import sys

from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.files import LIBDIR
from oci_criu_shim.host import process, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


NO_HELPER = (
    "this step has no checkpoint helper",
    "submit with --checkpoint; if that was done, slurmd's log and `oci-criu-shim doctor` on its node say why",
)
NO_ROOT = "Slurm's helper lends nothing to root's jobs", "submit it as another user"


def connect(helper: str | None) -> socket.socket:
    """Return a connection to the worker that will do the dump, by the socket `helper` of the step, if it has one.

    Raise ShimError if there is no such worker.
    """
    if helper is not None and os.path.exists(helper):
        if os.geteuid() == 0:
            raise ShimError(*NO_ROOT)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(helper)
        except OSError as error:
            said = f"the checkpoint helper does not answer: {error.strerror}"
            raise ShimError(said, "it ends with its step, or slurmd's log says why") from None
        return connection
    if helper is not None and os.geteuid() != 0:
        raise ShimError(*NO_HELPER)
    if os.geteuid() == 0:
        return _own_worker()
    raise ShimError(
        "a dump needs two capabilities, and no helper on this node lends them",
        "inside Slurm, submit with --checkpoint; outside of it, run and checkpoint as root",
    )


def _own_worker() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [sys.executable, "-I", "-S", os.path.join(LIBDIR, "worker.py")]
    process.spawn(argv, process.ENVIRONMENT, {3: theirs.fileno(), 2: 2})
    theirs.close()
    return ours


def dump(
    connection: socket.socket,
    options: Mapping[str, Any],
    fds: Sequence[int],
    commit: Callable[[dict[str, Any]], None],
    serves: Callable[[], None] | None = None,
    takes: Callable[[tuple[int, ...], socket.socket], bool] | None = None,
) -> float:
    """Have a process dumped; return for how many seconds it was frozen.

    `options` are of the worker's closed set. `fds` are the process's pidfd, the directory for the images and, if that
    is another one, CRIU's working directory. `commit` is called with the worker's report while all is frozen; if it
    raises, the container runs on, and the caller gets the exception. `serves` is called once the memory that is handed
    out lazily can be asked for. With the option `pages`, `takes` is called before anything is frozen, with CRIU's
    version and a socket: if it returns True, it has the memory from that.

    Raise ShimError if the dump failed, and Killed if that is because CRIU or the worker was killed.
    """
    try:
        wire.send(connection, {"op": "dump", **options}, fds)
        message, received = wire.receive(connection)
        if message.get("event") == "ready":
            message = _taken(connection, message, received, takes)
        if message.get("event") == "dumped":
            message = _committed(connection, message, commit)
        if message.get("event") == "serves":
            if serves:
                serves()
            message, _ = wire.receive(connection)
    except ConnectionError:
        raise Killed(*wire.NO_ANSWER) from None
    if message.get("event") != "done":
        raise _failure(message)
    return float(message["frozen_ns"]) / 1e9


def _taken(
    connection: socket.socket,
    message: Mapping[str, Any],
    received: Sequence[int],
    takes: Callable[[tuple[int, ...], socket.socket], bool] | None,
) -> dict[str, Any]:
    """Answer whether the memory is taken from the socket that the worker has sent; return the worker's next message."""
    pages = socket.socket(fileno=received[0])
    taken = takes is not None and takes(tuple(message["criu"]), pages)
    if not taken:
        pages.close()
    wire.send(connection, {"op": "pages" if taken else "files"})
    return wire.receive(connection)[0]


def _committed(
    connection: socket.socket, report: dict[str, Any], commit: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Commit what the worker reports as dumped; return the worker's next message."""
    try:
        commit(report)
    except BaseException:
        wire.send(connection, {"op": "abort"})
        message, _ = wire.receive(connection)  # once it answers, the container runs again
        if message.get("killed"):
            raise _failure(message) from None  # commit() could not read the container because of that
        raise
    wire.send(connection, {"op": "commit"})
    message, _ = wire.receive(connection)
    return message


def _failure(message: Mapping[str, Any]) -> ShimError:
    """Return the worker's answer as an error."""
    kind = Killed if message.get("killed") else ShimError
    return kind(str(message.get("error")), str(message.get("hint") or ""))
