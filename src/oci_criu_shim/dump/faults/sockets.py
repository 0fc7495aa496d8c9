"""Internet sockets that can't be dumped, or come back otherwise."""

from __future__ import annotations

import os
import re

from oci_criu_shim.container import mpi
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import inet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.proc import Process
    from oci_criu_shim.dump.survey import Survey

CLOSE = "have the program close it before the checkpoint, and connect again after it"
ROOTS = "--tcp-established keeps it"
FORBIDDEN = "--checkpoint-tcp=close has a restore close it, so that the program's next call on it fails"
SHOWN = 3


def connections(survey: Survey) -> Iterator[ShimError]:
    """Yield TCP connections that would not be there after a restore: those of which an end is outside, or may be."""
    if survey.keeps_connections or survey.closes:
        return
    ends = {(found.local, found.remote) for _, found in survey.sockets}
    for process, found in _not_anew(survey):
        if found.is_connection and not (survey.keeps_inner and _is_inner(found, ends)):
            said = f"{process} has a TCP connection open: {found}"
            if survey.keeps_inner:
                yield ShimError(f"{said}, out of the container's network namespace", CLOSE)
            else:
                yield ShimError(said, FORBIDDEN if survey.is_users else ROOTS)


def multipath(survey: Survey) -> Iterator[ShimError]:
    """Yield connections of MPTCP that would have to be kept."""
    for process, found in () if survey.closes else survey.sockets:
        if found.kind == "mptcp" and found.remote != inet.NOBODY:
            said = f"{process} has a connection of MPTCP, which CRIU can't dump: {found}"
            yield ShimError(said, "for Go programs, set GODEBUG=multipathtcp=0")


def _not_anew(survey: Survey) -> list[tuple[Process, inet.Socket]]:
    """Return all sockets but the ends of connections that a restore makes anew."""
    anew = {id(found) for pair in inet.pairs(survey.sockets) for _, found in pair} if survey.forgets_ended else ()
    return [(process, found) for process, found in survey.sockets if id(found) not in anew]


def _is_inner(found: inet.Socket, ends: set[tuple[inet.Address, inet.Address]]) -> bool:
    address = found.remote[0]
    return inet.is_loopback(address) or address == found.local[0] or (found.remote, found.local) in ends


def launched(survey: Survey) -> Iterator[ShimError]:
    """Yield connections to the step's server of PMI or PMIx, whose addresses are in the environment of its tasks."""
    yield from _managed(survey)
    environment = survey.bundle.environment()
    servers = [value for name, value in environment.items() if name.startswith("PMIX_SERVER_URI")]
    ports = {int(port) for server in servers for port in re.findall(r";tcp[46]://.*:([0-9]{1,5})", server)}
    for process, found in survey.sockets if ports else ():
        if found.is_connection and inet.is_loopback(found.remote[0]) and found.remote[1] in ports:
            yield ShimError(f"{process} has joined the MPI of its step: it is connected to slurmstepd", mpi.HINT)


def _managed(survey: Survey) -> Iterator[ShimError]:
    """Yield processes of a bare task that have the socket by which Slurm's PMI speaks to its ranks."""
    number = survey.bundle.environment().get(mpi.PMI_SOCKET, "") if survey.bundle.is_bare else ""
    given = {each.link for each in survey.init.descriptors if str(each.number) == number} if number else set()
    for process in survey.processes if given else ():
        if not given.isdisjoint(each.link for each in process.descriptors):
            yield ShimError(f"{process} has a socket to Slurm for MPI ({mpi.PMI_SOCKET})", mpi.WITHOUT)


def launching(survey: Survey) -> Iterator[ShimError]:
    """Yield launchers of MPI whose connections to ranks elsewhere a restore would close: neither goes on after that."""
    for process, found in _not_anew(survey) if survey.closes else ():
        if found.is_connection and process.name.startswith(mpi.LAUNCHERS):
            said = f"{process} has started ranks of MPI elsewhere, and a restore closes their connections"
            yield ShimError(f"{said}: {found}", mpi.HINT)


def layers(survey: Survey) -> Iterator[ShimError]:
    """Yield TCP connections that are kept, and that the kernel itself encrypts: it would send what it gets as it is."""
    for process, found in () if survey.closes else survey.sockets:
        if found.layer:
            yield ShimError(f"{process} has the kernel speak {found.layer} in the connection {found}", CLOSE)


def unread(survey: Survey) -> Iterator[ShimError]:
    """Yield TCP connections that have ended, and of which data is still to be read."""
    for process, found in survey.sockets if survey.forgets_ended and not survey.closes else ():
        if found.has_ended and found.unread:
            yield ShimError(
                f"{process} has not read all of a TCP connection that has ended: {found.unread} bytes",
                f"have the program read or close it before the checkpoint; {FORBIDDEN}",
            )


def unaccepted(survey: Survey) -> Iterator[ShimError]:
    """Yield listening sockets with connections that nobody has accepted yet."""
    for process, found in survey.sockets:
        if found.state == inet.LISTEN and found.unread:
            said = f"{process} has connections to {found} that it has not accepted ({found.unread}): they are lost"
            yield ShimError(said, "whoever connected has to connect again")


def empty(survey: Survey) -> Iterator[ShimError]:
    """Yield Unix sockets with an empty message to be read: CRIU takes it for the end of what is there, and a dump of
    ours fails if it finds one further back (spank/criu_queue.c)."""
    for process, length, _ in survey.messages:
        if not length:
            yield ShimError(
                f"{process} has an empty message to read from a Unix socket, at which CRIU would stop",
                "checkpoint later, once the program has read it",
            )


def senders(survey: Survey) -> Iterator[ShimError]:
    """Yield Unix sockets with a message of which CRIU does not keep who has sent it."""
    for process, _, sender in survey.messages:
        if sender:
            yield ShimError(
                f"{process} has not read a message from the Unix socket {sender}: it will have come from any that is"
                " connected, or from none",
                "checkpoint when there is none, or write the sender into the message",
            )


def fixed(survey: Survey) -> Iterator[ShimError]:
    """Yield sockets that are bound to an address of this node's, and need it."""
    environment = survey.bundle.environment()
    for process, found in survey.sockets if survey.shares("net") else ():
        if found.is_fixed and not mpi.is_for_daemons(process.name, found, environment):
            yield ShimError(
                f"{process} uses {found}, an address of {os.uname().nodename}, so it goes on only on a node that"
                " has it",
                "a program that listens on 0.0.0.0 or [::] goes on on any",
            )
