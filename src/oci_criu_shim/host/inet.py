"""Look at internet sockets, and write addresses as they are known."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    Holder = TypeVar("Holder")

# Of TCP's states (linux/tcp_states.h). In CLOSING, an end has sent all that it will, and not all of it has arrived yet.
ESTABLISHED, SYN_SENT, CLOSE, LISTEN = 1, 2, 7, 10
CLOSING = (4, 9, 11)
SHUT = (4, 5)  # FIN_WAIT1 and 2: shut down for writing by this end alone
OPEN = (ESTABLISHED, *SHUT, 8)  # and CLOSE_WAIT, by the other end alone
KINDS = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_MPTCP: "mptcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_UDPLITE: "udplite",
}
STREAMS = ("tcp", "mptcp")
ANY = (bytes(4), bytes(16))
NOBODY = b"", 0
MAPPED = bytes(10) + b"\xff\xff"  # begins an address of IPv6 that stands for one of IPv4 (ipv6(7))
SO_PEERNAME = 28  # asm-generic/socket.h: getpeername(2), also of a connection that has ended
TCP_ULP = 31  # linux/tcp.h
UNACKED = slice(24, 28)  # of TCP_INFO: of a listening socket, the connections that it has yet to accept

Address = tuple[bytes, int]
"""An address, as inet_ntop(3) wants it, and a port. One of IPv4 has 4 bytes, also on a socket of IPv6."""


class Socket:
    """What an internet socket is at one moment. `remote` is NOBODY if it is not connected, and never was.

    `unread` is the number of bytes that wait in a TCP connection that has ended; of a listening socket, the number of
    connections that wait to be accepted. `layer` is what the kernel itself speaks in a TCP connection, such as "tls".
    A connection that has ended by an error of which the program does not know yet `fails`.
    """

    def __init__(self, sock: socket.socket) -> None:
        proto = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
        self.kind = "raw" if sock.type == socket.SOCK_RAW else KINDS.get(proto, str(proto))
        self.local = address(sock.getsockname())
        self.remote, self.state, self.unread, self.layer, self.fails = NOBODY, 0, 0, "", False
        try:
            data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, 28 if sock.family == socket.AF_INET6 else 16)
            self.remote = unmapped(data[8:24] if len(data) == 28 else data[4:8]), int.from_bytes(data[2:4])
        except OSError:
            pass
        if self.kind in STREAMS:
            info = _info(sock)
            self.state = info[0]
            if self.state == LISTEN:
                self.unread = int.from_bytes(info[UNACKED], sys.byteorder)
            elif self.is_connection:
                self.layer = _layer(sock) if self.kind == "tcp" else ""
            else:
                self.fails = _fails(sock)
            if self.has_ended:
                self.unread = number(sock, termios.FIONREAD)

    @property
    def is_connection(self) -> bool:
        """Whether it is an end of a TCP connection, which may be shut down, but not by both ends."""
        return self.kind in STREAMS and self.state not in (LISTEN, CLOSE)

    @property
    def is_open(self) -> bool:
        """Whether it is an end of a TCP connection that could be made anew: one end at least has more to send."""
        return self.kind == "tcp" and self.state in OPEN and not self.layer

    @property
    def has_ended(self) -> bool:
        """Whether it is an end of a TCP connection that both ends have shut down."""
        return self.kind in STREAMS and self.state == CLOSE and self.remote != NOBODY

    @property
    def is_fixed(self) -> bool:
        """Whether it is bound to an address that other nodes don't have, and is connected to nobody."""
        address, port = self.local
        return bool(port and self.remote == NOBODY and address not in ANY and not is_loopback(address))

    def __str__(self) -> str:
        place = f"{self.kind} {text(*self.local)}"
        return place if self.remote == NOBODY else f"{place} to {text(*self.remote)}"


def number(sock: socket.socket, request: int) -> int:
    """Return the number that an ioctl of a socket gives (tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, request, bytes(4)), sys.byteorder)


def pairs(found: Iterable[tuple[Holder, Socket]]) -> list[list[tuple[Holder, Socket]]]:
    """Return the TCP connections of which both ends are among those `found`, each with who has it."""
    ends = {(sock.local, sock.remote): (holder, sock) for holder, sock in found if sock.is_open}
    opposite = ((ends.get((remote, local)), end) for (local, remote), end in ends.items() if local < remote)
    return [[other, end] for other, end in opposite if other]


def is_loopback(address: bytes) -> bool:
    """Return whether an address is the same on all nodes: of 127.0.0.0/8, its like in IPv6, or ::1."""
    address = unmapped(address)
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\1"


def unmapped(address: bytes) -> bytes:
    """Return the address of IPv4 that one of IPv6 stands for (ipv6(7)); else the address as it is."""
    return address[12:] if address[:12] == MAPPED else address


def packed(words: Iterable[int]) -> bytes:
    """Return an address that CRIU gives as numbers of 32 bits in this machine's order."""
    return b"".join(struct.pack("=I", word) for word in words)


def text(address: bytes, port: int) -> str:
    """Return an address and a port as 10.0.0.1:80, or [::1]:80."""
    if len(address) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, address)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"


def address(name: tuple[str, int]) -> Address:
    """Return the address and port that getsockname(2) gives."""
    host = name[0].partition("%")[0]
    return unmapped(socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)), name[1]


def _info(sock: socket.socket) -> bytes:
    """Return the TCP_INFO of a socket; one of MPTCP that has lost the connection that it began with is established."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.stop)
    except OSError:
        return bytes([ESTABLISHED]).ljust(UNACKED.stop, b"\0")


def _fails(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _layer(sock: socket.socket) -> str:
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, TCP_ULP, 16).rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""  # a kernel without any
