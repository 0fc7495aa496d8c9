"""Hold TCP up in a network namespace while its connections are written to images, or come from there.

Snapshots of a connection's two ends must agree, and until both are back, whatever one of them sends would be answered
by a reset. CRIU's own locks outlive it if it is killed, and then cut the container off for ever.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from oci_criu_shim.host import namespaces, process

# Of linux/netfilter/nf_tables.h, nfnetlink.h and netfilter.h; the messages are described by nft(8) as
#   table inet oci-criu-shim { flags owner; chain in { type filter hook input priority 0;
#       meta l4proto tcp meta mark != MARK drop } }
NETFILTER = 12  # a protocol of netlink(7)
BATCH_BEGIN, BATCH_END, SUBSYSTEM = 0x10, 0x11, 10
NEW_TABLE, GET_TABLES, NEW_CHAIN, NEW_RULE = (SUBSYSTEM << 8 | number for number in (0, 1, 3, 6))
REQUEST, ACK, DUMP, CREATE = 1, 4, 0x300, 0x400
HEAD = 20  # bytes of a message before its attributes
NESTED = 0x8000
INET, LOCAL_IN, ACCEPT, DROP = 1, 1, 1, 0
OWNER = 2  # the table goes with the socket that made it (Linux 5.12)
META_MARK, META_IN, META_OUT, META_PROTOCOL, EQUAL, NOT_EQUAL = 3, 4, 5, 16, 0, 1
LOOPBACK = 1  # the index of lo
CRIUS = b"CRIU-"  # where the name of CRIU's table begins (nftables_get_table() in criu/netfilter.c, 4.2)
VERDICT, REGISTER = 0, 1
MARK = 0xC114  # of the packets by which CRIU ends half of a connection (SOCCR_MARK in soccr/soccr.h)
NAME, CHAIN = b"oci-criu-shim\0", b"in\0"
PATIENCE_SECONDS = 5
HINT = "the kernel must have nf_tables (CONFIG_NF_TABLES_INET)"


def hold(pid: int) -> socket.socket:
    """Drop the TCP that comes in in the network namespace of process `pid`, until the socket returned is closed.

    It takes the rights of the user namespace that the network namespace belongs to. Raise OSError if the kernel
    refuses.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        child = process.fork(lambda: _lend(pid, theirs))
        theirs.close()
        text, held, _, _ = socket.recv_fds(ours, 16, 1, socket.MSG_CMSG_CLOEXEC)
        process.wait(child)
    if not held:
        number = int(text or errno.EIO)
        raise OSError(number, os.strerror(number), "nf_tables")
    return socket.socket(fileno=held[0])


def open_loopback() -> None:
    """Have CRIU's own locks, which its dumps leave in this network namespace, let through what lo carries.

    CRIU connects to itself when it starts (kerndat.c), and would wait for ever. It removes the lock of its images' dump
    at the end. Raise OSError if the kernel refuses.
    """
    ways = ((b"input\0", META_IN), (b"output\0", META_OUT))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as asking:
        asking.settimeout(PATIENCE_SECONDS)
        for table in filter(lambda name: name.startswith(CRIUS), _tables(asking)):
            _commit(
                asking,
                [
                    _rule(table, chain, _meta(key), _compare(EQUAL, struct.pack("=I", LOOPBACK)), _verdict(ACCEPT))
                    for chain, key in ways
                ],
            )


def _lend(pid: int, theirs: socket.socket) -> int:
    """Enter the network namespace, and send the socket that holds it up, or the number of an error."""
    try:
        namespaces.enter(pid, ("user", "net"))
        held = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
        _ask(held)
    except OSError as error:
        theirs.send(str(error.errno or errno.ETIMEDOUT).encode())
        return 1
    socket.send_fds(theirs, [b"0"], [held.fileno()])
    return 0


def _ask(held: socket.socket) -> None:
    """Have the kernel make the table; OSError if it does not."""
    hook = _nest(4, _number(1, LOCAL_IN), _number(2, 0))
    kind = _attribute(7, b"filter\0")
    tcp = _meta(META_PROTOCOL), _compare(EQUAL, bytes([socket.IPPROTO_TCP]))
    unmarked = _meta(META_MARK), _compare(NOT_EQUAL, struct.pack("=I", MARK))
    held.settimeout(PATIENCE_SECONDS)
    held.bind((0, 0))
    asked = [
        _message(NEW_TABLE, _attribute(1, NAME), _number(2, OWNER)),
        _message(NEW_CHAIN, _attribute(1, NAME), _attribute(3, CHAIN), hook, _number(5, ACCEPT), kind),
        _rule(NAME, CHAIN, *tcp, *unmarked, _verdict(DROP)),
    ]
    _commit(held, asked)


def _commit(asking: socket.socket, asked: list[bytes]) -> None:
    """Have the kernel do all that is asked, or nothing; OSError if it does not."""
    asking.send(b"".join([_batch(BATCH_BEGIN), *asked, _batch(BATCH_END)]))
    for _ in asked:
        number = -struct.unpack_from("=i", asking.recv(4096), 16)[0]
        if number:
            raise OSError(number, os.strerror(number))


def _tables(asking: socket.socket) -> list[bytes]:
    """Return the names of the tables for both IPv4 and IPv6, each with its null byte."""
    asking.send(struct.pack("=IHHIIBBH", HEAD, GET_TABLES, REQUEST | DUMP, 0, 0, INET, 0, 0))
    found: list[bytes] = []
    while True:
        data, offset = asking.recv(1 << 16), 0
        while offset < len(data):
            size, kind = struct.unpack_from("=IH", data, offset)
            if kind != NEW_TABLE:
                return found  # the end, or an error
            length = struct.unpack_from("=H", data, offset + HEAD)[0]  # the name comes first
            found.append(data[offset + HEAD + 4 : offset + HEAD + length])
            offset += size


def _batch(kind: int) -> bytes:
    return struct.pack("=IHHIIBBH", HEAD, kind, REQUEST, 0, 0, 0, 0, socket.htons(SUBSYSTEM))


def _message(kind: int, *attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return struct.pack("=IHHIIBBH", HEAD + len(body), kind, REQUEST | ACK | CREATE, 0, 0, INET, 0, 0) + body


def _rule(table: bytes, chain: bytes, *expressions: bytes) -> bytes:
    """Return what makes a rule the first of its chain."""
    return _message(NEW_RULE, _attribute(1, table), _attribute(2, chain), _nest(4, *expressions))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))


def _nest(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | NESTED, b"".join(attributes))


def _expression(name: bytes, *attributes: bytes) -> bytes:
    return _nest(1, _attribute(1, name), _nest(2, *attributes))


def _meta(key: int) -> bytes:
    return _expression(b"meta\0", _number(1, REGISTER), _number(2, key))


def _compare(how: int, value: bytes) -> bytes:
    return _expression(b"cmp\0", _number(1, REGISTER), _number(2, how), _nest(3, _attribute(1, value)))


def _verdict(code: int) -> bytes:
    return _expression(b"immediate\0", _number(1, VERDICT), _nest(2, _nest(2, _number(1, code))))
