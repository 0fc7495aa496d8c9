"""Look at the internet sockets in CRIU's images: what they need of this node, and what becomes of them.

CRIU gives each its old local address again. Some have no need of it, or can't have it: they are changed in a copy of
the image.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from oci_criu_shim.errors import Misfit
from oci_criu_shim.host import criu_images, inet
from oci_criu_shim.restore.inner import Inner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from oci_criu_shim.checkpoints.manifest import Closed, End
    from oci_criu_shim.host.criu import Message

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
STREAM = "tcp-stream-{:x}.img"  # the queues of a TCP connection, by its inode
IP_FREEBIND = 15  # linux/in.h
# Of an entry's `shutdown` (sk_shutdown in CRIU's images/sk-opts.proto): what spank/criu_reset.c takes for a connection,
# and for one that was being made. CRIU writes neither for a socket that it does not connect again.
CONNECTION, BEGUN = 3, 2
# What would keep a closed connection's socket from being connected to lo, and to nothing else it is connected again.
WAYS = ("so_bound_dev", "so_mark", "so_filter")
SHOWN = 4
ENDED_SECONDS = (
    65.0  # TCP_TIMEWAIT_LEN of net/tcp.h, and as much of net.ipv4.tcp_fin_timeout as is usual, and some more
)
IN_USE = "wait until it is free, or have the program use another port; it may be free on another node"
MISSING = "the job goes on on a node that has it; a program that listens on 0.0.0.0 or [::] goes on on any"


class Sockets:
    """The sockets among the open `files` in the images' directory `images`; changes are made in `files`."""

    def __init__(self, images: str, files: list[Message]) -> None:
        self.images = images
        self.found = [entry.isk for entry in files if entry.HasField("isk")]
        self.abstract = [entry.usk for entry in files if entry.HasField("usk") and _has_abstract(entry.usk)]

    @property
    def has_connections(self) -> bool:
        """Whether there are TCP connections, or what is left unread of one."""
        return any(map(criu_images.is_connection, self.found))

    @property
    def has_open_connections(self) -> bool:
        """Whether there are TCP connections that have not ended."""
        return any(criu_images.is_connection(sock) and sock.state != inet.CLOSE for sock in self.found)

    def fail(self, inodes: Collection[int]) -> None:
        """Have TCP sockets of these inodes, whose connections had ended by an error, come back with one."""
        for sock in self.found:
            if sock.proto == socket.IPPROTO_TCP and sock.state == inet.CLOSE and sock.ino in inodes:
                _reset(sock)

    def make_anew(self, noted: list[list[End]], inner: Inner) -> None:
        """Have connections between the container's own processes made anew, of which the manifest has `noted` the ends.

        Those that can't be are left as they are.
        """
        path = os.path.join(self.images, criu_images.UNREAD)
        with open(path if os.path.exists(path) else os.devnull, "rb") as stream:
            for ends in noted:
                waiting = [stream.read(end["unread"]) for end in ends]
                inodes = [end["inode"] for end in ends]
                entries = [sock for inode in inodes for sock in self.found if sock.ino == inode]
                if len(entries) == 2 and inner.make(entries, waiting, [end["shut"] for end in ends]):
                    self.found = [sock for sock in self.found if sock.ino not in inodes]

    def close_open(self, unread: Collection[int]) -> int:
        """Have TCP connections come back as after a reset; return their number.

        These are all that have not ended, and those of the inodes `unread`. They need no address of this node, and are
        in nobody's way.
        """
        found = [sock for sock in self.found if criu_images.is_connection(sock)]
        found = [sock for sock in found if sock.ino in unread or not self._has_ended(sock)]
        for sock in found:
            _reset(sock)
        return len(found)

    def forget_ended(self) -> bool:
        """Have TCP sockets whose connections have ended come back unconnected; return whether there are any.

        To the program they are the same, but for data that it has not read yet. CRIU would connect them, and refuses.
        """
        ended = [sock for sock in self.found if criu_images.is_connection(sock) and self._has_ended(sock)]
        for sock in ended:
            _forget(sock)
            sock.dst_port = 0
        return bool(ended)

    def fit(self, home: str, unneeded: Collection[int] = ()) -> bool:
        """Have connected UDP sockets choose a new address if they can't have theirs here, and sockets of the inodes
        `unneeded` listen on the loopback interface if this node lacks it; return whether there are any.

        Raise Misfit for any other socket that can't have its own. If this node lacks the address, `home` has it, the
        node on which the checkpoint was made.
        """
        for name in self.abstract:
            if error := _refused_name(name):
                text = bytes(name.name).replace(b"\0", b"@").decode(errors="replace")
                raise _misfit(f"the abstract unix socket {text}", error, home)
        changed = False
        begun = time.monotonic()
        for sock in filter(_is_bound, self.found):
            while (error := _refused(sock)) and _passes(sock, error) and time.monotonic() - begun < ENDED_SECONDS:
                time.sleep(0.5)
            if error is None:
                continue
            own = criu_images.local_address(sock)
            if sock.proto != socket.IPPROTO_TCP and sock.dst_port and not inet.is_loopback(own):
                _forget(sock)
                changed = True
            elif error.errno == errno.EADDRNOTAVAIL and sock.ino in unneeded:
                _move_to_loopback(sock)
                changed = True
            else:
                kind = "tcp" if sock.proto == socket.IPPROTO_TCP else "udp"
                raise _misfit(f"{kind} {inet.text(own, sock.src_port)}", error, home)
        return changed

    def _has_ended(self, sock: Message) -> bool:
        """Return whether both ends of a connection have closed it, and all that came was read."""
        if sock.state != inet.CLOSE:
            return False
        try:
            path = os.path.join(self.images, STREAM.format(sock.ino))
            stream = next(criu_images.read_entries(path, criu_images.stream_type()))
        except FileNotFoundError:
            return True
        return not stream.inq_len


class Closing:
    """The closing of TCP connections, of which the manifest has `noted` some; `number` is how many are closed.

    The `inner` ones are made anew instead.
    """

    def __init__(self, noted: Closed | None) -> None:
        self.noted: Closed = noted or {"named": [], "unread": [], "failed": []}
        self.number = 0
        self.inner = Inner()

    def change(self, found: Sockets, closes: bool, all_of_them: bool) -> bool:
        """Change what is `found`: what had failed has failed again, and if it `closes`, all that is open is closed, the
        inner ones only if `all_of_them` are.

        So it is if the dump was one that closes. Return whether there is anything.
        """
        found.fail(self.noted["failed"])
        if not all_of_them:
            found.make_anew(self.noted.get("inner", []), self.inner)
        if closes or self.noted["named"]:
            self.number = found.close_open(self.noted["unread"])
        return self.changes

    @property
    def changes(self) -> bool:
        """Whether any socket comes back otherwise than CRIU has it."""
        return bool(self.number or self.noted["failed"] or self.inner.ends)

    def line(self) -> str:
        """Return what the job's output says of the connections that are closed."""
        named = self.noted["named"]
        known = f": {', '.join(named[:SHOWN])}{', …' if named[SHOWN:] else ''}" if named else ""
        what = "TCP connection is" if self.number == 1 else "TCP connections are"
        return f"{self.number} {what} closed, and the program's next call fails as after a reset{known}"


def _is_bound(sock: Message) -> bool:
    """Return whether CRIU binds a socket (open_inet_sk() in criu/sk-inet.c)."""
    without = criu_images.is_connection(sock) or sock.proto in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
    return bool(sock.src_port and not without)


def _forget(sock: Message) -> None:
    """Have the kernel choose a socket's local address."""
    sock.src_port = 0
    for number in range(len(sock.src_addr)):
        sock.src_addr[number] = 0


def _move_to_loopback(sock: Message) -> None:
    """Have a socket listen there, on its own port."""
    address = socket.inet_pton(sock.family, LOOPBACK[sock.family])
    for number in range(len(sock.src_addr)):
        sock.src_addr[number] = int.from_bytes(address[number * 4 : number * 4 + 4], sys.byteorder)


def _reset(sock: Message) -> None:
    """Have a TCP socket come back as after a reset (spank/criu_reset.c)."""
    sock.shutdown = BEGUN if sock.state == inet.SYN_SENT else CONNECTION
    sock.state = inet.ESTABLISHED  # CRIU heeds no failure of a closed one
    _forget(sock)
    sock.dst_port = 0
    for name in WAYS:
        sock.opts.ClearField(name)


def _refused(sock: Message) -> OSError | None:
    """Return why a socket could not be bound here to its address; None if it could (open_inet_sk() in criu/sk-inet.c).

    CRIU would bind an IPv6 socket to an address that the node does not have.
    """
    try:
        with socket.socket(sock.family, sock.type, sock.proto) as probe:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                probe.setsockopt(socket.SOL_SOCKET, option, 1)
            if sock.v6only:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if sock.ip_opts.freebind:
                probe.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            if device := sock.ifname or sock.opts.so_bound_dev:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            probe.bind((socket.inet_ntop(sock.family, criu_images.local_address(sock)), sock.src_port))
    except OSError as error:
        return error
    return None


def _passes(sock: Message, error: OSError) -> bool:
    """Return whether a TCP port is taken by connections only that have ended, perhaps the container's own before.

    Nobody has such a connection any more (proc_pid_net(5)): the kernel keeps it for a minute.
    """
    if error.errno != errno.EADDRINUSE or sock.proto != socket.IPPROTO_TCP:
        return False
    port = f":{sock.src_port:04X}"
    found = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/self/net/{name}", encoding="ascii") as stream:
                found += [row for line in stream if (row := line.split())[1].endswith(port)]
        except FileNotFoundError:
            pass  # no IPv6
    return bool(found) and all(row[9] == "0" for row in found)


def _has_abstract(sock: Message) -> bool:
    """Return whether a unix socket has a name of its own that is no path; an accepted one has its listener's."""
    return bool(sock.name[:1] == b"\0" and (sock.state == inet.LISTEN or sock.type == socket.SOCK_DGRAM))


def _refused_name(sock: Message) -> OSError | None:
    """Return why a unix socket could not have its abstract name here; None if it could."""
    try:
        with socket.socket(socket.AF_UNIX, sock.type) as probe:
            probe.bind(bytes(sock.name))
    except OSError as error:
        return error
    return None


def _misfit(name: str, error: OSError, home: str) -> Misfit:
    if error.errno == errno.EADDRNOTAVAIL:
        return Misfit(
            f"a program of the container's uses {name}, an address that this node does not have", MISSING, home
        )
    if error.errno == errno.EADDRINUSE:
        return Misfit(f"a program of the container's uses {name}, which another one uses on this node", IN_USE)
    return Misfit(f"a program of the container's uses {name}, and this node refuses that: {error.strerror}")
