"""The worker that the privileged helper starts for one dump: one connection, one request.

Runs isolated (python3 -I -S), with nothing of the user's in its environment; it answers on
descriptor 3. The request's form is closed; whatever else comes is refused.
"""

from __future__ import annotations

import os
import socket

from oci_criu_shim import wire
from oci_criu_shim.errors import ShimError
from oci_criu_shim.privileged import dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONNECTION = 3


def main(job: int | None) -> int:
    """Serve the connection; the exit status. `job` is the one that the container must belong to."""
    connection = socket.socket(fileno=CONNECTION)
    try:
        serve(connection, job)
    except ShimError as error:
        answer = {"event": "failed", "error": str(error), "hint": error.hint}
    except OSError as error:
        answer = {"event": "failed", "error": str(error), "hint": ""}
    else:
        answer = {"event": "done"}
    try:
        wire.send(connection, answer)
    except OSError:
        return 1  # whoever asked is gone
    return 0 if answer["event"] == "done" else 1


def serve(connection: socket.socket, job: int | None) -> None:
    """Take the request, dump, and ask for the commit while the container is frozen.

    The user connects as soon as there might be something to dump, so CRIU is started before he asks for it.
    """
    try:
        ready = dump.Ready()
    except (ShimError, OSError):
        wire.receive(connection)  # an answer to a request that is still unread would be lost
        raise
    try:
        _serve(connection, job, ready)
    finally:
        ready.swrk.close()


def _serve(connection: socket.socket, job: int | None, ready: dump.Ready) -> None:
    message, fds = wire.receive(connection)
    leave_running = check(message, fds)
    pidfd, images = fds

    def commit(report: dict[str, Any]) -> bool:
        wire.send(connection, {"event": "dumped", **report})
        answer, _ = wire.receive(connection)
        return answer == {"op": "commit"}

    dump.dump(ready, dump.Target(pidfd, job), images, leave_running, commit)


def check(message: dict[str, Any], fds: list[int]) -> bool:
    """The request's one flag; ShimError unless it is {"op": "dump", "leave_running": …} with a
    pidfd and a directory."""
    leave_running = message.get("leave_running")
    if set(message) != {"op", "leave_running"} or message["op"] != "dump":
        raise ShimError("the request is not one that this version knows")
    if not isinstance(leave_running, bool) or len(fds) != 2:
        raise ShimError("the request is not one that this version knows")
    if not os.path.isdir(f"/proc/self/fd/{fds[1]}"):
        raise ShimError("no image directory was passed")
    return leave_running
