"""The TCP connections of a container that a restore closes: what is noted of them, and how they end with it."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress

from oci_criu_shim.container import mpi
from oci_criu_shim.dump import inner
from oci_criu_shim.dump.proc import duplicate
from oci_criu_shim.host import criu_images, inet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.manifest import Closed, End
    from oci_criu_shim.dump.proc import Descriptor
    from oci_criu_shim.dump.survey import Survey

NAMED = 5  # at most; a restore says fewer
AT_ONCE = struct.pack("=ii", 1, 0)  # of SO_LINGER: close(2) resets the connection (socket(7), tcp_close())


class Connections:
    """The connections of a container that is frozen, once look() was called."""

    def __init__(self) -> None:
        self.failed: list[int] = []
        self.found: list[tuple[Descriptor, inet.Socket]] = []  # those of a network in which they are closed
        self.inner: list[list[End]] = []  # those that are made anew
        self.unneeded: list[int] = []
        self.held: list[socket.socket] = []

    def look(self, survey: Survey | None, images: str) -> None:
        """Take them from a `survey`; there are none without it. What waits at inner ones goes to a file in `images`."""
        if survey:
            self.failed = [_inode(each) for each, found in survey.open_sockets if found.fails]
            self.found = survey.open_sockets if survey.closes else []
            environment = survey.bundle.environment()
            sockets = survey.open_sockets if survey.shares("net") else []
            self.unneeded = [_inode(each) for each, found in sockets if _is_unneeded(each, found, environment)]
        if found := inet.pairs(survey.open_sockets) if survey and survey.forgets_ended else []:
            with open(os.path.join(images, criu_images.UNREAD), "wb") as stream:
                limit = time.monotonic() + inner.ARRIVE_SECONDS
                for pair in found:
                    if waiting := inner.waiting([each for each, _ in pair], limit):
                        self.inner.append([_end(*end, data) for end, data in zip(pair, waiting, strict=True)])
                        stream.writelines(waiting)

    def note(self) -> Closed | None:
        """Return what the manifest has of them; None if there are none."""
        unread = [(each, found) for each, found in self.found if found.has_ended and found.unread and not found.fails]
        anew = {end["inode"] for ends in self.inner for end in ends}
        closed = [(each, found) for each, found in self.found if found.is_connection and _inode(each) not in anew]
        closed += unread
        if not closed and not self.failed and not anew and not self.unneeded:
            return None
        named = dict.fromkeys(f"{each.process.inside} with {inet.text(*found.remote)}" for each, found in closed)
        return {
            "named": [*named][:NAMED],
            "unread": [_inode(each) for each, _ in unread],
            "failed": self.failed,
            "inner": self.inner,
            "unneeded": self.unneeded,
        }

    def hold(self) -> None:
        """Have those that are to be reset, too, as far as we may: they will end when we close them.

        The others have their end under way already.
        """
        with suppress(OSError):
            for each in (each for each, found in self.found if found.is_connection and found.state not in inet.CLOSING):
                with duplicate(each) as sock:
                    if sock:
                        self.held.append(sock.dup())

    def reset(self) -> None:
        """Tell the other ends, once the container has ended, that these connections came to no orderly end.

        What was sent has had the time of the dump to arrive. And nothing of them remains in the way of a restore here.
        """
        for sock in self.held:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.release()

    def release(self) -> None:
        """Have them no longer: whoever else has them may use them as before."""
        while self.held:
            self.held.pop().close()


def _end(descriptor: Descriptor, found: inet.Socket, waiting: bytes) -> End:
    return {"inode": _inode(descriptor), "unread": len(waiting), "shut": found.state in inet.SHUT}


def _is_unneeded(descriptor: Descriptor, found: inet.Socket, environment: dict[str, str]) -> bool:
    return mpi.is_for_daemons(descriptor.process.name, found, environment)


def _inode(descriptor: Descriptor) -> int:
    return int(descriptor.link.strip("socket:[]"))
