"""The worker that the privileged helper starts for one dump: one connection, one request.

Runs isolated (python3 -I -S), with nothing of the user's in its environment; it answers on
descriptor 3. The request's form is closed; whatever else comes is refused.
"""

from __future__ import annotations

import os
import select
import socket

from oci_criu_shim import config, wire
from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.privileged import dump
from oci_criu_shim.privileged.report import CRIU, REFUSED, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Fits = Callable[[object], bool]

CONNECTION = 3
NEWNET = 1 << 30  # CLONE_NEWNET


def _one_of(*values: object) -> Fits:
    """Whether it is one of these; True is not 1 here."""
    return lambda value: any(type(value) is type(other) and value == other for other in values)


def _is_server(value: object) -> bool:
    """Whether it is [address, port]."""
    return isinstance(value, list) and [type(part) for part in value] == [str, int]


def _is_seal(value: object) -> bool:
    """Whether it is as seal.of() gives it."""
    return isinstance(value, str) and len(value) == 128 and set(value) <= set("0123456789abcdef")


FLAG = _one_of(False, True)
# What anybody may ask for, and what root may besides: his containers can reach out of themselves in any case.
OPTIONS: dict[str, Fits] = {"leave_running": FLAG, "track_mem": FLAG, "incremental": FLAG, "seal": _is_seal}
ROOTS: dict[str, Fits] = {
    "tcp_established": FLAG,
    "ext_unix_sk": FLAG,
    "shell_job": FLAG,
    "lazy_pages": FLAG,
    "pre_dump": FLAG,
    "page_server": _is_server,
    "network_lock": _one_of("IPTABLES", "NFTABLES", "SKIP"),
    "network": _one_of("joined", "dumped"),
    "empty_ns": _one_of(NEWNET),
    "for": _one_of("crun", "runc"),
}


def main(job: int | None, reporting: bool) -> int:
    """Serve the connection; the exit status. `job` is the one that the container must belong to; with `reporting` the
    helper counts dumps."""
    report = Report(reporting)
    connection = socket.socket(fileno=CONNECTION)
    try:
        answer = {"event": "done", "frozen_ns": serve(connection, job, report)}
    except ShimError as error:
        answer = {"event": "failed", "error": str(error), "hint": error.hint, "killed": isinstance(error, Killed)}
    except OSError as error:
        answer = {"event": "failed", "error": str(error), "hint": ""}
    report.end(answer["event"] == "done")
    try:
        wire.send(connection, answer)
    except OSError:
        return 1  # whoever asked is gone
    return 0 if answer["event"] == "done" else 1


def serve(connection: socket.socket, job: int | None, report: Report) -> int:
    """Take the request, dump, and ask for the commit while the container is frozen; for how many nanoseconds it was.

    The user connects as soon as there might be something to dump, so CRIU is started before he asks for it.
    """
    try:
        ready = dump.Ready()
    except (ShimError, OSError):
        wire.receive(connection)  # an answer to a request that is still unread would be lost
        report.begin()
        raise
    try:
        return _serve(connection, job, report, ready)
    finally:
        ready.swrk.close()


def _serve(connection: socket.socket, job: int | None, report: Report, ready: dump.Ready) -> int:
    message, fds = wire.receive(connection)
    report.begin()
    report.reached = REFUSED
    asked = check(message, fds)
    pidfd, *directories = fds

    def commit(about: dict[str, Any]) -> bool:
        report.dumped(directories[0])
        wire.send(connection, {"event": "dumped", **about})
        answer, _ = wire.receive(connection)
        committed = answer == {"op": "commit"}
        if committed:
            report.reached = CRIU
        return committed

    def serves() -> None:
        wire.send(connection, {"event": "serves"})

    try:
        target = dump.Target(pidfd, job)
    except (ShimError, OSError):
        if select.select([pidfd], [], [], 0)[0]:
            report.reached = CRIU  # it has ended meanwhile, and nothing is wrong with who asked
        raise
    report.reached = CRIU
    return dump.dump(ready, target, directories, asked, commit, serves)


def check(message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """The request's options; ShimError unless it is {"op": "dump", …} with nothing but options of the closed set,
    a pidfd and one or two directories: for the images, and to work in."""
    options = {name: value for name, value in message.items() if name != "op"}
    known = {**OPTIONS, **(ROOTS if os.geteuid() == 0 else {})}
    fits = all(name in known and known[name](value) for name, value in options.items())
    if message.get("op") != "dump" or "leave_running" not in options or not fits or len(fds) not in (2, 3):
        raise ShimError("the request is not one that this version knows")
    if options.get("incremental") and not options.get("track_mem"):
        raise ShimError("an increment is of memory that is tracked, and the request has no track_mem")
    if os.geteuid() and options.get("track_mem") and not config.increments():
        raise ShimError(f"increments are off in {config.PATH}", "the next checkpoint is whole")
    if not all(os.path.isdir(f"/proc/self/fd/{descriptor}") for descriptor in fds[1:]):
        raise ShimError("no image directory was passed")
    return options
