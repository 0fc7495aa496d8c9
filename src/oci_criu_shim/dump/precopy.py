"""Send a program's memory to another node while it runs on, so that it is frozen only for what it has written since.

Several rounds may go ahead of the dump. Each sends the pages that have changed, by their digests, since the round
before, as images that the next ones are an increment of. Neither the kernel's marks of written memory nor any privilege
is needed: CRIU hands out all memory at the dump, and the page server leaves out what was sent (known.py).
"""

from __future__ import annotations

import mmap
import os
import socket
import time

from oci_criu_shim.checkpoints import scratch
from oci_criu_shim.checkpoints.committed import IMAGES
from oci_criu_shim.dump import memory, page_server
from oci_criu_shim.dump.known import Known, digest
from oci_criu_shim.dump.page_server import PageServer
from oci_criu_shim.host import process
from oci_criu_shim.transfer import received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.transfer.sender import Sender

ROUNDS = 4
PLACES = 2048  # pages that are looked at again
GLANCE, LOOK = 0.1, 0.3  # seconds until they are, first and last
LINK = 1.2e8  # bytes a second that a link takes, as long as that isn't known
MOST_WRITTEN = 0.2  # of its memory a program may write during a round, or that is not worth it
MORE = 1.25  # times the memory may be sent
WORTH = 0.5  # a round is, if it leaves less than this much of what the one before has left
SOON = 0.3  # seconds; what takes less needs no round
PROTOCOL = 4, 2  # the version of CRIU whose requests we make


class Precopy:
    """Sends the memory of the processes from `init` on by `sender`, as far as that is worth it.

    `made` is told of the directory that it needs meanwhile.
    """

    def __init__(self, init: int, sender: Sender, made: Callable[[str], None]) -> None:
        self.init = init
        self.sender = sender
        self.made = made
        self.known = Known()
        self.sent: list[int] = []  # bytes of pages that each round has sent

    def run(self) -> Known | None:
        """Do so, and return what is known there by then; None if it is not worth it. Raise ShimError if the other node
        fails, OSError if this one does."""
        size = process.memory(self.init)
        if self.sender.room < MORE * size or _written_soon(self.init, size) > MOST_WRITTEN:
            return None
        self.sender.most = int(MORE * size)
        left = size
        while len(self.sent) < ROUNDS:
            seconds = self._round()
            before, left = left, int(self._share_written() * size)
            if left > WORTH * before or left * seconds < SOON * self.sent[-1]:
                break
            if sum(self.sent) + 2 * left > self.sender.most:
                break
        return self.known

    def _round(self) -> float:
        """Send what has changed; return in how many seconds."""
        begun, path = time.monotonic(), os.path.join(received.MEMORY, scratch.name())
        scratch.sweep(received.MEMORY)
        os.makedirs(os.path.join(path, IMAGES), mode=0o700)
        try:
            self.made(path)
            self.sent.append(self._send(os.path.join(path, IMAGES)))
            self.sender.end_round(path)
        finally:
            scratch.try_to_remove(path)
        self.known.end_round()
        return time.monotonic() - begun

    def _send(self, images: str) -> int:
        ours, theirs = socket.socketpair()
        server = PageServer(images, self.sender, theirs, PROTOCOL, self.known)
        try:
            with ours:
                try:
                    _hand_out(self.init, ours)
                except OSError:
                    pass  # the server has hung up, and says why
            return sum(server.finish().values())
        finally:
            server.stop()

    def _share_written(self) -> float:
        """Return which part of the memory differs from what was sent."""
        numbers, make = dict(process.numbered(self.init)), self.known.digest
        found = []
        for pid, address, _ in memory.places(list(numbers), PLACES):
            table = self.known.tables.get(numbers[pid])
            found.append(
                not table or table.of(address, 1) != make(memoryview(memory.read(pid, address, mmap.PAGESIZE)))
            )
        return sum(found) / max(len(found), 1)


def _written_soon(init: int, size: int) -> float:
    """Return which part of their memory the processes from `init` on will have written when `size` bytes are sent, by
    what they write in a moment."""
    make = digest()
    places = [(pid, address) for pid, address, _ in memory.places(process.tree(init), PLACES)]
    if not places:
        return 1.0

    def look() -> list[bytes]:
        return [make(memoryview(memory.read(*place, mmap.PAGESIZE))) for place in places]

    begin = look()
    shares = []
    for seconds in (GLANCE, LOOK - GLANCE):
        time.sleep(seconds)
        shares.append(sum(now != before for now, before in zip(look(), begin, strict=True)) / len(places))
    return shares[1] + (shares[1] - shares[0]) / (LOOK - GLANCE) * size / LINK


def _hand_out(init: int, server: socket.socket) -> None:
    """Hand out the memory of the processes from `init` on as CRIU does."""

    def ask(command: int, count: int = 0, address: int = 0, whose: int = 0, flags: int = 0) -> None:
        server.sendall(page_server.REQUEST.pack(command | flags << page_server.COMMAND_BITS, count, address, whose))

    for pid, number in process.numbered(init):
        ask(page_server.OPEN, whose=number << page_server.KIND_BITS | page_server.PROCESS)
        server.recv(len(page_server.NO_PARENT))
        for address, data in memory.contents(pid):
            ask(page_server.ADD, len(data) // mmap.PAGESIZE, address, flags=page_server.PRESENT)
            server.sendall(data)
    ask(page_server.CLOSE[0])
    server.recv(len(page_server.DONE))
