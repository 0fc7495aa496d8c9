"""Make anew the TCP connections between a container's own processes, which are in the node's network.

CRIU would need CAP_NET_ADMIN there. But both ends are ours, so they are connected as any program connects, from the old
addresses if this node has them; what was not read yet is sent again. CRIU makes sockets of its own, and binds them to
addresses that stand for the ends: spank/criu_inner.c puts the ends in their place.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import ExitStack, suppress

from oci_criu_shim.host import criu_images, inet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.host.criu import Message

VARIABLE = "OCI_CRIU_SHIM_ENDS"  # of CRIU's environment: the name of our socket, in the abstract namespace (unix(7))
# The address that stands for an end, with its number in the last two bytes: nobody can have it (RFC 1112, class E).
PLACE, PORT = b"\xff\xff", 1
LOOPBACK = {4: socket.inet_pton(socket.AF_INET, "127.0.0.1"), 16: socket.inet_pton(socket.AF_INET6, "::1")}
SECONDS = 5.0  # for a connection over lo
ROOMY = 1 << 20  # bytes: as large a buffer as the node allows, if much was unread


class Inner:
    """Connections that are made anew; CRIU gets their ends between serve() and close()."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.stack = ExitStack()
        self.listener: socket.socket | None = None

    def make(self, entries: list[Message], unread: list[bytes], shut: list[bool]) -> bool:
        """Connect two sockets of CRIU's images, and have it restore them so; return False if that can't be.

        `unread` is what each has to read, and `shut` whether it had shut the connection down for writing.
        """
        with ExitStack() as stack:
            try:
                ends = _connected(entries, max(map(len, unread)) > ROOMY // 16, stack)
                for number, end in enumerate(ends):
                    end.setblocking(False)
                    if end.send(unread[1 - number]) < len(unread[1 - number]):
                        return False
                    if shut[number]:
                        end.shutdown(socket.SHUT_WR)
            except OSError:
                return False
            self.stack.push(stack.pop_all())
        self.listener = self.listener or self._listen()
        for entry, end in zip(entries, ends, strict=True):
            _stand_for(entry, len(self.ends))
            self.ends.append(end)
        return True

    @property
    def environment(self) -> dict[str, str]:
        """What CRIU's environment needs besides."""
        return {VARIABLE: bytes(self.listener.getsockname())[1:].decode()} if self.listener else {}

    def _listen(self) -> socket.socket:
        listener = self.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind("")  # to a name that the kernel chooses
        listener.listen()
        return listener

    def serve(self) -> None:
        """Hand out the ends, in a thread."""
        if self.listener:
            threading.Thread(target=self._serve, args=(self.listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return  # close()
            with connection, suppress(OSError, struct.error, IndexError):
                if _is_ours(connection):
                    (number,) = struct.unpack("=H", connection.recv(2))
                    socket.send_fds(connection, [b"e"], [self.ends[number].fileno()])

    def close(self) -> None:
        """Have the ends no longer: CRIU's processes keep theirs."""
        if self.listener:
            with suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        self.stack.close()


def _is_ours(connection: socket.socket) -> bool:
    """Return whether it is our own user who asks."""
    uid: int = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    return uid == os.geteuid()


def _connected(entries: list[Message], roomy: bool, stack: ExitStack) -> list[socket.socket]:
    """Return sockets that are connected to each other. Raise OSError if that can't be."""
    first, second = entries
    with _bound(first, roomy) as listener:
        listener.listen(1)
        asking = stack.enter_context(_bound(second, roomy))
        place, port = inet.address(listener.getsockname())
        asking.connect((_host(asking.family, place), port))
        while True:
            accepted = stack.enter_context(listener.accept()[0])
            if inet.address(accepted.getpeername()) == inet.address(asking.getsockname()):
                return [accepted, asking]
            accepted.close()  # a stranger's


def _bound(entry: Message, roomy: bool) -> socket.socket:
    """Return a new socket that is bound to an entry's address, if this node has it, and port, if that is free."""
    made = socket.socket(entry.family, socket.SOCK_STREAM)
    made.settimeout(SECONDS)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if entry.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF) if roomy else ():
        made.setsockopt(socket.SOL_SOCKET, option, ROOMY)
    own = inet.unmapped(criu_images.local_address(entry))
    for place in (own, LOOPBACK[len(own)]):
        for port in (entry.src_port, 0):
            with suppress(OSError):
                made.bind((_host(entry.family, place), port))
                return made
    made.close()
    raise OSError(f"no address of this node's for {inet.text(own, entry.src_port)}")


def _host(family: int, place: bytes) -> str:
    return socket.inet_ntop(family, inet.MAPPED + place if family == socket.AF_INET6 and len(place) == 4 else place)


def _stand_for(entry: Message, number: int) -> None:
    """Have CRIU bind the socket of an entry to the address that stands for the end `number`, and do no more with it."""
    place = PLACE + struct.pack(">H", number)
    whole = inet.MAPPED + place if entry.family == socket.AF_INET6 else place.ljust(4 * len(entry.src_addr), b"\0")
    entry.src_addr[:] = [word for (word,) in struct.iter_unpack("=I", whole)]
    entry.src_port, entry.dst_port, entry.state = PORT, 0, inet.ESTABLISHED
    entry.v6only = False
    entry.ClearField("shutdown")
    # An accepted one must not keep the port of the socket that listens, when CRIU has not bound that yet.
    entry.opts.reuseaddr = entry.opts.so_reuseport = True
