"""Send a program's memory to another node while it runs on, so that it is frozen only for what it has written since.

Several rounds may go ahead of the dump. Each sends the pages that have changed, by their digests, since the round
before, as images that the next ones are an increment of. Neither the kernel's marks of written memory nor any privilege
is needed: CRIU hands out all memory at the dump, and the page server leaves out what was sent (known.py).
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from itertools import islice

from oci_criu_shim.checkpoints import scratch
from oci_criu_shim.checkpoints.committed import IMAGES
from oci_criu_shim.dump import known, memory, page_server
from oci_criu_shim.dump.known import Known
from oci_criu_shim.dump.page_server import PageServer
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups, process
from oci_criu_shim.transfer import received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oci_criu_shim.dump.memory import Span
    from oci_criu_shim.transfer.sender import Sender

ROUNDS = 4
WIDEST = 1 << 40  # bytes of addresses, which are all gone through
SAMPLES, ENOUGH, TRIES = 1024, 64, 1 << 15  # pages that are looked at again: at most, at least, and tries to find them
GLANCE, LOOK, HORIZON = 0.1, 0.3, 3.0  # seconds until they are, first and last, and for which that tells what follows
LINK = 1.2e8  # bytes a second that a link takes, as long as that isn't known
PERIOD = 2.0  # seconds between looks during a round
MOST_WRITTEN = 0.2  # of its memory a program may write during a round, or that is not worth it
MORE, SPARE = 1.25, 128 << 20  # times the memory may be sent, and bytes more
DIGESTS, BUFFERS = 0.01, 64 << 20  # of the memory, and bytes, that this needs on this node
WORTH = 0.5  # a round is, if it leaves less than this much of what the one before has left
SOON = 0.3  # seconds; what takes less needs no round
PROTOCOL = 4, 2  # the version of CRIU whose requests we make


class _TooMuch(Exception):
    """The program writes too much for this to be of use."""


class Precopy:
    """Sends the memory of the processes from `init` on by `sender`, as far as that is worth it.

    `made` is told of the directory that it needs meanwhile. Once the descriptor `urgent` can be read, all is given up.
    """

    def __init__(self, init: int, sender: Sender, made: Callable[[str], None], urgent: int) -> None:
        self.init = init
        self.sender = sender
        self.made = made
        self.urgent = urgent
        self.known: Known
        self.sent: list[int] = []  # bytes of pages that each round has sent

    def run(self) -> Known | None:
        """Do so, and return what is known there by then; None if nothing is there.

        Raise ShimError if the other node fails or something is urgent, OSError if this node fails.
        """
        size = process.memory(self.init)
        try:
            self.known = Known(self._own)
        except ImportError:
            return None
        if not self._is_worth_it(size):
            return None
        self.sender.most = int(MORE * size) + SPARE
        try:
            self._rounds(size)
        except _TooMuch:
            self.sender.begin_anew()
            return None
        self.known.is_last = True
        return self.known

    def _is_worth_it(self, size: int) -> bool:
        room = cgroups.memory_left()
        if room is not None and room < DIGESTS * size + BUFFERS:
            return False
        if self.sender.room < MORE * size + SPARE:
            return False
        pids = process.tree(self.init)
        width = sum(end - begin for pid in pids for begin, end in memory.own(pid))
        return width < WIDEST and _written_soon(pids, size) < MOST_WRITTEN

    def _rounds(self, size: int) -> None:
        left = size
        while len(self.sent) < ROUNDS:
            seconds = self._round()
            before, left = left, self._left()
            total = sum(self.sent) + left
            if total > self.sender.most:
                raise _TooMuch
            if left > WORTH * before or left * seconds < SOON * self.sent[-1] or total + left > self.sender.most:
                return

    def _left(self) -> int:
        """Return about how many bytes would be sent by a dump now."""
        sent = known.size(self.known.tables)
        return int(self._share_written(self.known.tables) * sent) + max(process.memory(self.init) - sent, 0)

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
                    self._hand_out(ours)
                except ConnectionError:
                    pass  # the server has hung up, and says why
            return sum(server.finish().values())
        finally:
            server.stop()

    def _hand_out(self, server: socket.socket) -> None:
        """Hand out the memory of all processes as CRIU does."""

        def ask(command: int, count: int = 0, address: int = 0, whose: int = 0, flags: int = 0) -> None:
            server.sendall(page_server.REQUEST.pack(command | flags << page_server.COMMAND_BITS, count, address, whose))

        looked = time.monotonic()
        for pid, number in process.numbered(self.init):
            ask(page_server.OPEN, whose=number << page_server.KIND_BITS | page_server.PROCESS)
            server.recv(len(page_server.NO_PARENT))
            for address, data in memory.contents(pid):
                ask(page_server.ADD, len(data) // mmap.PAGESIZE, address, flags=page_server.PRESENT)
                server.sendall(data)
                if time.monotonic() > looked + PERIOD:
                    self._look()
                    looked = time.monotonic()
        ask(page_server.CLOSE[0])
        server.recv(len(page_server.DONE))

    def _look(self) -> None:
        """Raise ShimError if something else is urgent, _TooMuch if what has just been sent has been written since."""
        if select.select([self.urgent], [], [], 0)[0]:
            raise ShimError("another checkpoint is wanted meanwhile, which comes first")
        if not self.sent and self._share_written(self.known.new) > MOST_WRITTEN:
            raise _TooMuch

    def _share_written(self, tables: dict[int, known.Table]) -> float:
        """Return which part of the pages in `tables` is not as it was."""
        pids = {number: pid for pid, number in process.numbered(self.init)}
        found = [
            number not in pids or self.known.digest(memory.read(pids[number], address, mmap.PAGESIZE)) != digest
            for number, address, digest in known.sample(tables, SAMPLES)
        ]
        return sum(found) / max(len(found), 1)

    def _own(self, number: int) -> Sequence[Span]:
        return next((memory.own(pid) for pid, found in process.numbered(self.init) if found == number), [])


def _written_soon(pids: list[int], size: int) -> float:
    """Return which part of their memory the processes will have written when `size` bytes are sent, by what they write
    in a moment; 1 if that can't be told."""
    places = [(pid, address) for pid, address, _ in islice(memory.places(pids, TRIES), SAMPLES)]
    if len(places) < ENOUGH:
        return 1.0

    def look() -> list[bytes]:
        return [memory.read(*place, mmap.PAGESIZE) for place in places]

    begin = look()
    shares = []
    for seconds in (GLANCE, LOOK - GLANCE):
        time.sleep(seconds)
        written = sum(now != before or not now for now, before in zip(look(), begin, strict=True))
        shares.append(written / len(places))
    more = (shares[1] - shares[0]) / (LOOK - GLANCE)
    return shares[1] + more * min(size / LINK, HORIZON)
