"""Serve one connection and one request for a dump: the worker that the step's privileged helper starts.

It runs isolated (python3 -I -S), with nothing of the user's in its environment, and answers on descriptor 3. Requests
have a closed form (host/wire.py); anything else is refused.
"""

from __future__ import annotations

import os
import select
import socket
import sys

from oci_criu_shim import config
from oci_criu_shim.errors import Killed, ShimError, line_of
from oci_criu_shim.host import wire
from oci_criu_shim.privileged import dump, target
from oci_criu_shim.privileged.report import CRIU, REFUSED, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oci_criu_shim.files import Document

    Fits = Callable[[object], bool]

CONNECTION = 3
NEWNET = 1 << 30  # CLONE_NEWNET
PATIENCE_SECONDS = 6 * 3600  # no flush of a checkpoint takes longer
LONGEST = 4096  # characters of an error: with all of them escaped, it fits into a message


def _one_of(*values: object) -> Fits:
    """Return a check for these values; True is not 1 here."""
    return lambda value: any(type(value) is type(other) and value == other for other in values)


def _is_server(value: object) -> bool:
    """Return whether a value is [address, port]."""
    return isinstance(value, list) and [type(part) for part in value] == [str, int]


def _is_number(value: object) -> bool:
    """Return whether a value is one that a uint32 of CRIU's request holds."""
    return type(value) is int and 0 <= value < 1 << 32


def _is_seal(value: object) -> bool:
    """Return whether a value is of the form that seal.of() gives."""
    return isinstance(value, str) and len(value) == 128 and set(value) <= set("0123456789abcdef")


def _are_points(value: object) -> bool:
    """Return whether a value is a list of absolute paths."""
    return isinstance(value, list) and all(isinstance(point, str) and point[:1] == "/" for point in value)


FLAG = _one_of(False, True)
# What does not go with `pages`: an increment's parent must be sealed as CRIU wrote it.
ALONE = ("track_mem", "pre_dump", "page_server", "lazy_pages")
# Options that anybody may ask for, and those for root besides: root's containers can reach out of themselves anyway.
OPTIONS: dict[str, Fits] = {
    "leave_running": FLAG,
    "track_mem": FLAG,
    "incremental": FLAG,
    "seal": _is_seal,
    "tcp_close": FLAG,
    "inner": _are_points,
    "bare": FLAG,
    "pages": FLAG,
}
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
    "ghost_limit": _is_number,
    "timeout": _is_number,
    "log_level": _one_of(*range(5)),
}


class Client:
    """The process that asks for a dump, at the other end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        # The process that connected (SO_PEERCRED of unix(7)): others may hold the other end, too, for ever.
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.process = os.pidfd_open(int.from_bytes(peer[:4], sys.byteorder))

    def receive(self) -> tuple[Document, list[int]]:
        """Return the client's next message, and the descriptors that came with it.

        Raise Killed if the client has ended, ShimError if it sends nothing, or no valid message.
        """
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        poll.register(self.process, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(PATIENCE_SECONDS * 1000)]
        if not ready:
            raise ShimError(f"nothing was heard for {PATIENCE_SECONDS} s from the process that asked for the dump")
        if self.connection.fileno() not in ready:
            raise Killed("the process that asked for the dump has ended")
        return wire.receive(self.connection)

    def send(self, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send a message; OSError if the client is gone, ShimError if the message is too long."""
        wire.send(self.connection, message, fds)


def main(job: tuple[int, str] | None, reporting: bool) -> int:
    """Serve the connection; return the exit status.

    `job` is the number and the control group, "CONTROLLERS:PATH" as in /proc/PID/cgroup, of the job to which the
    container must belong. With `reporting` the helper counts dumps.
    """
    report = Report(reporting)
    try:
        client = Client(socket.socket(fileno=CONNECTION))
    except ProcessLookupError:
        return 1  # the client is gone already
    answer: wire.Done | wire.Failed
    try:
        answer = {"event": "done", "frozen_ns": serve(client, job, report)}
    except (ShimError, OSError) as error:
        answer = failed(error)
    report.end(answer["event"] == "done")
    try:
        client.send(answer)
    except OSError:
        return 1  # the client is gone
    return 0 if answer["event"] == "done" else 1


def failed(error: ShimError | OSError) -> wire.Failed:
    """Return the answer that tells the client of an error."""
    text, hint = (str(error), error.hint) if isinstance(error, ShimError) else (line_of(error), "")
    return {
        "event": "failed",
        "error": text[:LONGEST],
        "hint": hint[:LONGEST],
        "killed": isinstance(error, Killed),
    }


def serve(client: Client, job: tuple[int, str] | None, report: Report) -> int:
    """Take the request, dump, and ask for the commit while the container is frozen.

    Return for how many nanoseconds it was frozen. The user connects as soon as there might be something to dump, so
    CRIU is started before the request arrives.
    """
    try:
        service = dump.Service()
    except (ShimError, OSError):
        client.receive()  # an answer to a request that is still unread would be lost
        report.begin()
        raise
    try:
        return _serve(client, job, report, service)
    finally:
        service.swrk.close()


def _serve(client: Client, job: tuple[int, str] | None, report: Report, service: dump.Service) -> int:
    message, fds = client.receive()
    report.begin()
    report.reached = REFUSED
    asked = check(message, fds)
    pidfd, *directories = fds

    try:
        init = target.Target(pidfd, job)
    except (ShimError, OSError):
        if select.select([pidfd], [], [], 0)[0]:
            report.reached = CRIU  # it has ended meanwhile, and the request was not at fault
        raise
    report.reached = CRIU
    return dump.dump(service, init, directories, asked, Conversation(client, report, directories[0]))


class Conversation:
    """What a dump asks of its `client`, and tells it (dump.Asker)."""

    def __init__(self, client: Client, report: Report, images: int) -> None:
        self.client = client
        self.report = report
        self.images = images

    def takes(self, criu: tuple[int, ...], pages: socket.socket) -> bool:
        """Return whether the client takes the memory from `pages`, the other end of which is CRIU's."""
        self.client.send({"event": "ready", "criu": criu}, [pages.fileno()])
        answer, _ = self.client.receive()
        return answer == {"op": "pages"}

    def commit(self, about: wire.DumpReport) -> bool:
        """Return whether the client has committed what was dumped."""
        self.report.dumped(self.images)
        self.client.send({"event": "dumped", **about})
        answer, _ = self.client.receive()
        committed = answer == {"op": "commit"}
        if committed:
            self.report.reached = CRIU
        return committed

    def serves(self) -> None:
        """Tell the client that lazy memory can be asked for."""
        self.client.send({"event": "serves"})


def check(message: Document, fds: list[int]) -> wire.Options:
    """Return the options of a request {"op": "dump", …}.

    Raise ShimError unless it has nothing but options of the closed set, and comes with a pidfd and one or two
    directories.
    """
    options = {name: value for name, value in message.items() if name != "op"}
    known = {**OPTIONS, **(ROOTS if os.geteuid() == 0 else {})}
    fits = all(name in known and known[name](value) for name, value in options.items())
    if message.get("op") != "dump" or "leave_running" not in options or not fits or len(fds) not in (2, 3):
        raise ShimError("the request is not one that this version knows")
    if options.get("incremental") and not options.get("track_mem"):
        raise ShimError("an increment is of memory that is tracked, and the request has no track_mem")
    if options.get("pages") and any(map(options.get, ALONE)):
        raise ShimError("memory that is sent away can't be tracked, or go to two places")
    if os.geteuid() and options.get("track_mem") and not config.increments():
        raise ShimError(f"increments are off in {config.PATH}", "the next checkpoint is whole")
    if not all(os.path.isdir(f"/proc/self/fd/{descriptor}") for descriptor in fds[1:]):
        raise ShimError("no image directory was passed")
    return options  # type: ignore[return-value]  # each fits its name
