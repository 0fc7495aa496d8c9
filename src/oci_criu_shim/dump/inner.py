"""Read what is under way in a TCP connection between processes of one container, which leaves it there."""

from __future__ import annotations

import socket
import termios
import time
from contextlib import ExitStack

from oci_criu_shim.dump.proc import duplicate
from oci_criu_shim.host import inet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.dump.proc import Descriptor

SO_PEEK_OFF = 42  # asm-generic/socket.h
# For what was sent to arrive and be acknowledged, while all is frozen: the kernel delays that by 40 ms.
ARRIVE_SECONDS, PAUSE = 0.5, 0.005


def waiting(ends: list[Descriptor], limit: float) -> list[bytes]:
    """Return what waits to be read at each end of a connection; nothing if that can't be told, or if not all that was
    sent has arrived by `limit`, on the clock of monotonic()."""
    with ExitStack() as stack:
        socks = [sock for end in ends if (sock := stack.enter_context(duplicate(end)))]
        if len(socks) < len(ends) or not all(_has_arrived(sock, limit) for sock in socks):
            return []
        lengths = [inet.number(sock, termios.FIONREAD) for sock in socks]
        found = [_peek(sock, length) for sock, length in zip(socks, lengths, strict=True)]
        return found if [len(data) for data in found] == lengths else []


def _has_arrived(sock: socket.socket, limit: float) -> bool:
    """Wait until all that this end has sent has arrived; return False if it has not by `limit` (tcp(7), SIOCOUTQ)."""
    while inet.number(sock, termios.TIOCOUTQ):
        if time.monotonic() > limit:
            return False
        time.sleep(PAUSE)
    return True


def _peek(sock: socket.socket, length: int) -> bytes:
    """Return so many bytes that wait; fewer if the program itself looks ahead, from a place that it has set."""
    if not length or sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) >= 0:
        return b""
    return sock.recv(length, socket.MSG_PEEK | socket.MSG_DONTWAIT)
