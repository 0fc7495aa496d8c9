"""What is told of internet sockets before a dump, and what of those in images before a restore."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.container import mpi
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump import inner as dump_inner
from oci_criu_shim.dump.connections import Connections
from oci_criu_shim.dump.dump import Dump
from oci_criu_shim.dump.faults import sockets as faults
from oci_criu_shim.dump.survey import Survey
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import criu_images, inet, netlock
from oci_criu_shim.restore import sockets

Pair = tuple[socket.socket, socket.socket, socket.socket]
HOST, PEER = (b"\n\0\0\x09", 8080), (b"\n\0\0\x08", 40000)


def made_of(kind: str, local: inet.Address, remote: inet.Address = inet.NOBODY, state: int = 0) -> inet.Socket:
    found = object.__new__(inet.Socket)
    found.__dict__ |= {"kind": kind, "local": local, "remote": remote, "state": state, "unread": 0, "layer": ""}
    return found


def test_what_a_socket_is(pair: Pair) -> None:
    listener, one, _ = pair
    here, there = (inet.text(socket.inet_aton(host), port) for host, port in (one.getsockname(), one.getpeername()))
    found = inet.Socket(one)
    assert str(found) == f"tcp {here} to {there}"
    assert (found.is_connection, found.has_ended, found.is_fixed) == (True, False, False)
    assert str(inet.Socket(listener)) == f"tcp {there}"
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        assert (str(inet.Socket(other)), inet.Socket(other).is_connection) == ("udp [::]:0", False)
        other.bind(("::1", 0))
        other.connect(("::1", 9))
        assert str(inet.Socket(other)) == f"udp [::1]:{other.getsockname()[1]} to [::1]:9"
    with socket.socket() as fresh:
        assert not inet.Socket(fresh).has_ended


@pytest.mark.parametrize(
    ("address", "port", "fixed"),
    [
        ("10.0.0.9", 80, True),
        ("127.0.0.1", 80, False),
        ("0.0.0.0", 80, False),
        ("::", 80, False),
        ("10.0.0.9", 0, False),
    ],
)
def test_an_address_that_other_nodes_lack(address: str, port: int, fixed: bool) -> None:
    local = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address), port
    assert made_of("tcp", local, state=inet.LISTEN).is_fixed is fixed
    assert not made_of("udp", local, PEER).is_fixed


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback(address: str) -> None:
    assert inet.is_loopback(socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address))


@pytest.mark.parametrize("address", ["10.0.0.1", "::", "fe80::1", "::ffff:10.0.0.1"])
def test_no_loopback(address: str) -> None:
    assert not inet.is_loopback(socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address))


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A listening socket, and both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            yield listener, one, other


def closing() -> Survey:
    """The same, whose connections are closed."""
    found = survey(closes_connections=True)
    found.__dict__ |= {"closes": True}
    return found


def survey(**given: Any) -> Survey:
    """This process, as a user's container with the node's network."""
    found = Survey(os.getpid(), Bundle("/b", {"root": {"path": "rootfs"}}), **given)
    found.__dict__ |= {"processes": found.processes[:1], "keeps_inner": False, "forgets_ended": True}
    return found


def test_connections(pair: Pair) -> None:
    ours = [inet.text(socket.inet_aton(host), port) for host, port in (end.getsockname() for end in pair[1:])]
    roots = survey()
    roots.__dict__["forgets_ended"] = False
    said = [str(fault) for fault in faults.connections(roots)]
    for here, there in (ours, ours[::-1]):
        assert any(f"has a TCP connection open: tcp {here} to {there}" in line for line in said)
    assert not list(faults.connections(survey(keeps_connections=True)))


def test_connections_within(pair: Pair) -> None:
    found = survey()
    found.__dict__ |= {"keeps_inner": True, "forgets_ended": False}
    assert not list(faults.connections(found))
    outer, inner = made_of("tcp", HOST, PEER, 1), made_of("tcp", PEER, HOST, 1)
    found.__dict__["sockets"] = [(found.init, outer)]
    (fault,) = faults.connections(found)
    assert "10.0.0.9:8080 to 10.0.0.8:40000, out of the container's network namespace" in str(fault)
    found.__dict__["sockets"] = [(found.init, outer), (found.init, inner)]
    assert not list(faults.connections(found))


def test_connections_that_are_closed(pair: Pair) -> None:
    """Those with anybody outside are refused, if the job wants that; never those within, which are made anew."""
    assert not list(faults.connections(closing()))
    said = [str(fault) for fault in faults.connections(survey())]
    places = [inet.text(*inet.address(end.getsockname())) for end in pair[1:]]
    assert not [line for line in said for place in places if place in line]
    found = survey()
    found.__dict__["sockets"] = [(found.init, made_of("tcp", HOST, PEER, 1))]
    (fault,) = faults.connections(found)
    assert "has a TCP connection open: tcp 10.0.0.9:8080 to 10.0.0.8:40000" in str(fault)


def test_both_families_at_the_two_ends() -> None:
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as one,
        listener.accept()[0] as other,
    ):
        ends = inet.Socket(one), inet.Socket(other)
        assert (ends[0].local, ends[0].remote) == (ends[1].remote, ends[1].local)
        assert len(inet.pairs(enumerate(ends))) == 1


def test_connections_of_mptcp() -> None:
    found = survey()
    found.__dict__["sockets"] = [(found.init, made_of("mptcp", HOST, state=inet.LISTEN))]
    assert not list(faults.multipath(found))
    found.__dict__["sockets"] = [(found.init, made_of("mptcp", HOST, PEER, 1))]
    (fault,) = faults.multipath(found)
    assert "has a connection of MPTCP, which CRIU can't dump: mptcp 10.0.0.9:8080 to 10.0.0.8:40000" in str(fault)
    found.__dict__["closes"] = True
    assert not list(faults.multipath(found))


def without(found: Survey, *ends: socket.socket) -> Survey:
    """As if another program had these ends."""
    ours = [one for one in found.open_sockets if one[0].link not in {f"socket:[{inode(end)}]" for end in ends}]
    found.__dict__["open_sockets"] = ours
    return found


def test_what_is_noted(pair: Pair, tmp_path: Path) -> None:
    """A failure that the program does not know yet; what it has not read; whom it is connected with."""
    listener, one, other = pair
    connections = Connections()
    assert connections.note() is None
    connections.look(without(closing(), other), str(tmp_path))
    noted = connections.note()
    assert noted and noted["inner"] == []
    assert f"{closing().init.inside} with {inet.text(*inet.address(one.getpeername()))}" in noted["named"]
    assert len(noted["named"]) <= 5
    one.send(b"left")
    one.shutdown(socket.SHUT_WR)
    other.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""
    reset, there = socket.create_connection(listener.getsockname()), listener.accept()[0]
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    there.close()
    with reset:
        connections.look(closing(), str(tmp_path))
        noted = connections.note()
        assert noted
        assert (noted["unread"], noted["failed"]) == ([inode(other)], [inode(reset)])
        connections.look(survey(), str(tmp_path))
        others: dict[str, list[Any]] = {"named": [], "unread": [], "inner": [], "unneeded": []}
        assert connections.note() == {**others, "failed": [inode(reset)]}


def test_what_is_noted_of_inner_ones(pair: Pair, tmp_path: Path) -> None:
    """What waits at each end, and which end has shut it down; they have it still."""
    _, one, other = pair
    other.send(b"to the first")
    one.send(b"to the other")
    one.shutdown(socket.SHUT_WR)
    connections = Connections()
    connections.look(closing(), str(tmp_path))
    noted = connections.note()
    assert noted and noted["named"] == []
    (ends,) = noted["inner"]
    assert {end["inode"]: end["shut"] for end in ends} == {inode(one): True, inode(other): False}
    waiting = b"".join(b"to the first" if end["inode"] == inode(one) else b"to the other" for end in ends)
    assert (tmp_path / criu_images.UNREAD).read_bytes() == waiting
    assert (one.recv(99), other.recv(99)) == (b"to the first", b"to the other")


def test_what_did_not_arrive(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows it to nobody, so both ends are closed."""
    _, one, _ = pair
    monkeypatch.setattr(dump_inner, "ARRIVE_SECONDS", 0.1)
    one.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            one.send(bytes(65536))
    connections = Connections()
    connections.look(closing(), str(tmp_path))
    noted = connections.note()
    assert noted and noted["inner"] == [] and len(noted["named"]) == 2


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize("ends", [True, False])
def test_how_they_end(pair: Pair, ends: bool, tmp_path: Path) -> None:
    """By a reset; if the container has not ended, not at all."""
    _, one, other = pair
    connections = Connections()
    connections.look(closing(), str(tmp_path))
    connections.hold()
    (connections.reset if ends else connections.release)()
    one.send(b"x")
    one.close()
    assert other.recv(1) == b"x"
    with pytest.raises(ConnectionResetError) if ends else nullcontext():
        assert other.recv(1) == b""


def test_what_has_ended(pair: Pair) -> None:
    _, one, other = pair
    assert not any(end.has_ended for _, end in survey().sockets)
    one.send(b"left")
    one.shutdown(socket.SHUT_WR)
    other.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""
    found = survey()
    assert sorted(end.unread for _, end in found.sockets if end.has_ended) == [0, 4]
    (fault,) = faults.unread(found)
    assert "has not read all of a TCP connection that has ended: 4 bytes" in str(fault)
    found.__dict__["forgets_ended"] = False
    assert not list(faults.unread(found))


def test_what_the_kernel_encrypts(pair: Pair) -> None:
    found = survey()
    assert not list(faults.layers(found))
    (first, *_) = (sock for _, sock in found.sockets if sock.is_connection)
    first.layer = "tls"
    (fault,) = faults.layers(found)
    assert f"has the kernel speak tls in the connection {first}" in str(fault)


def test_what_is_not_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        (fault,) = faults.unaccepted(survey())
        host, port = listener.getsockname()
    assert f"has connections to tcp {host}:{port} that it has not accepted (1)" in str(fault)


class Image:
    """The sockets of an image, as protobuf has them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: Any) -> None:
        entries = [self.entry(one) for one in found]
        entries.append(SimpleNamespace(HasField=lambda _: False))
        monkeypatch.setattr(criu_images, "stream_type", lambda: None)
        self.sockets = sockets.Sockets("/images", entries)

    @staticmethod
    def entry(one: Any) -> Any:
        kind = "usk" if hasattr(one, "name") else "isk"
        return SimpleNamespace(**{kind: one}, HasField=lambda field: field == kind)


def made(kind: str, address: str, port: int, peer: int = 0, state: int = inet.CLOSE) -> Any:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    data = socket.inet_pton(family, address)
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    proto, sort = {"tcp": (6, socket.SOCK_STREAM), "udp": (17, socket.SOCK_DGRAM)}[kind]
    options = SimpleNamespace(freebind=False)
    others = SimpleNamespace(so_bound_dev="", cleared=[])
    others.ClearField = others.cleared.append
    return SimpleNamespace(
        **{"family": int(family), "type": int(sort), "proto": proto, "state": state, "ino": 31, "v6only": False},
        **{"src_addr": words, "src_port": port, "dst_port": peer, "ip_opts": options, "ifname": ""},
        opts=others,
    )


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_an_address_that_is_not_here(monkeypatch: pytest.MonkeyPatch, kind: str, address: str) -> None:
    """192.0.2.0/24 and 2001:db8::/32 are for documentation."""
    image = Image(monkeypatch, made(kind, address, 7070, state=inet.LISTEN))
    with pytest.raises(Misfit, match="an address that this node does not have") as raised:
        image.sockets.fit("n7")
    assert raised.value.home == "n7"


@pytest.mark.parametrize(("address", "here"), [("192.0.2.7", "127.0.0.1"), ("2001:db8::7", "::1")])
def test_an_address_that_nobody_needs(monkeypatch: pytest.MonkeyPatch, address: str, here: str) -> None:
    entry = made("tcp", address, 7070, state=inet.LISTEN)
    image = Image(monkeypatch, entry)
    assert image.sockets.fit("n7", [entry.ino])
    assert (criu_images.local_address(entry), entry.src_port) == (socket.inet_pton(entry.family, here), 7070)
    assert not image.sockets.fit("n7", [entry.ino])


@pytest.mark.parametrize(
    ("name", "nodes", "unneeded"),
    [("prterun", "1", True), ("python3", "1", False), ("prterun", "2", False)],
)
def test_where_a_launcher_listens_for_other_nodes(name: str, nodes: str, unneeded: bool) -> None:
    listening, anywhere = made_of("tcp", HOST, state=inet.LISTEN), made_of("tcp", (b"\0" * 4, 80), state=inet.LISTEN)
    assert mpi.is_for_daemons(name, listening, {"SLURM_NNODES": nodes}) is unneeded
    assert not mpi.is_for_daemons(name, anywhere, {"SLURM_NNODES": nodes})


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        image = Image(monkeypatch, made("tcp", "0.0.0.0", port, state=inet.LISTEN))
        with pytest.raises(Misfit, match=rf"tcp 0.0.0.0:{port}, which another one uses on this node") as raised:
            image.sockets.fit("n7")
    assert raised.value.home == ""
    assert not image.sockets.fit("n7")


def test_a_port_of_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, but not if somebody has it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))  # without SO_REUSEADDR
    listener.listen()
    host, port = listener.getsockname()
    with socket.create_connection((host, port)) as one:
        other, _ = listener.accept()
        other.close()
        assert one.recv(1) == b""
    image = Image(monkeypatch, made("tcp", "0.0.0.0", port, state=inet.LISTEN))
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: 30.0 * len(slept))
    with pytest.raises(Misfit, match="another one uses"):
        image.sockets.fit("n7")
    assert not slept
    listener.close()
    with pytest.raises(Misfit, match="another one uses"):
        image.sockets.fit("n7")
    assert len(slept) == 3


def test_connected_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    away, here = made("udp", "192.0.2.7", 40000, 53), made("udp", "127.0.0.1", 0, 53)
    assert Image(monkeypatch, away, here).sockets.fit("n7")
    assert (away.src_port, away.src_addr, away.dst_port) == (0, [0], 53)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        within = made("udp", "127.0.0.1", other.getsockname()[1], 53)
        with pytest.raises(Misfit, match="which another one uses"):  # who sends to it would not find it
            Image(monkeypatch, within).sockets.fit("n7")


def test_an_abstract_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"\0name of {os.getpid()}".encode()
    made = SimpleNamespace(name=name, type=int(socket.SOCK_STREAM), state=inet.LISTEN)
    accepted = SimpleNamespace(name=b"\0", type=int(socket.SOCK_STREAM), state=1)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(name)
        with pytest.raises(Misfit, match=f"the abstract unix socket @name of {os.getpid()}, which another one uses"):
            Image(monkeypatch, made).sockets.fit("n7")
    assert not Image(monkeypatch, made, accepted).sockets.fit("n7")


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = made("udp", "0.0.0.0", 40000)
    sock.opts.so_bound_dev = "nodevice0"
    with pytest.raises(Misfit, match="and this node refuses that: No such device"):
        Image(monkeypatch, sock).sockets.fit("n7")


@pytest.mark.parametrize("unread", [None, 0, 4])
def test_connections_that_have_ended(monkeypatch: pytest.MonkeyPatch, unread: int | None) -> None:
    """Only with what is still to be read do they stay connections to CRIU."""
    end, other = made("tcp", "10.0.0.1", 80, 40000), made("tcp", "10.0.0.1", 80, 40001, 1)
    image = Image(monkeypatch, end)

    def stream(path: str, *_: object) -> Any:
        assert path == "/images/tcp-stream-1f.img"
        if unread is None:
            raise FileNotFoundError
        return iter([SimpleNamespace(inq_len=unread)])

    monkeypatch.setattr(criu_images, "read_entries", stream)
    assert image.sockets.forget_ended() is not bool(unread)
    assert image.sockets.has_connections is bool(unread)
    assert (end.src_port, end.dst_port) == ((80, 40000) if unread else (0, 0))
    assert not Image(monkeypatch, other).sockets.forget_ended()


def test_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They need no address any more. What was being connected is another case."""
    open_, begun = made("tcp", "10.0.0.1", 80, 40000, 1), made("tcp", "::1", 41000, 81, inet.SYN_SENT)
    ended, unread, listener = made("tcp", "::1", 80, 40001), made("tcp", "::1", 80, 40002), made("tcp", "::1", 80)
    failed, datagram = made("tcp", "::1", 80, 40003), made("udp", "127.0.0.1", 0, 53, 1)
    for number, sock in enumerate((open_, begun, ended, unread, listener, failed, datagram)):
        sock.ino = number

    def stream(*_: object) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(criu_images, "read_entries", stream)
    image = Image(monkeypatch, open_, begun, ended, unread, listener, failed, datagram)
    image.sockets.fail([5])
    assert (failed.shutdown, failed.src_port, failed.dst_port) == (3, 0, 0)
    assert image.sockets.close_open([3]) == 3
    assert [sock.shutdown for sock in (open_, begun, unread)] == [3, 2, 3]
    for sock in (open_, begun, unread, failed):
        assert (sock.state, sock.src_port, sock.dst_port, set(sock.src_addr)) == (1, 0, 0, {0})
        assert sock.opts.cleared == ["so_bound_dev", "so_mark", "so_filter"]
    assert not any(hasattr(sock, "shutdown") for sock in (ended, listener, datagram))
    assert image.sockets.forget_ended()
    assert (ended.dst_port, listener.src_port, datagram.dst_port) == (0, 80, 53)


@pytest.mark.parametrize(
    ("named", "number", "words"),
    [
        (["a (pid 1) with b"], 1, "1 TCP connection is closed, {}: a (pid 1) with b"),
        (["a", "b"], 3, "3 TCP connections are closed, {}: a, b"),
        ([*"abcde"], 7, "7 TCP connections are closed, {}: a, b, c, d, …"),
        ([], 2, "2 TCP connections are closed, {}"),
    ],
)
def test_what_is_said_of_them(named: list[str], number: int, words: str) -> None:
    closing = sockets.Closing({"named": named, "unread": [], "failed": []} if named else None)
    found: Any = SimpleNamespace(fail=lambda inodes: None, close_open=lambda inodes: number)
    assert closing.change(found, False, True) is bool(named)  # root's restore of a job's
    assert closing.change(found, True, True)
    assert closing.line() == words.format("and the program's next call fails as after a reset")


class Entry:
    """A message that is its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @staticmethod
    def FromString(data: bytes) -> Entry:
        return Entry(data)

    def SerializeToString(self) -> bytes:
        return self.data


def test_an_image_is_written_as_it_was_read(tmp_path: Path) -> None:
    path, copy = tmp_path / "files.img", tmp_path / "copy"
    entries = [b"one", b"", b"three"]
    path.write_bytes(b"1234abcd" + b"".join(len(one).to_bytes(4, "little") + one for one in entries))
    found = list(criu_images.read_entries(str(path), Entry))
    assert [entry.data for entry in found] == entries
    criu_images.write_entries(str(path), str(copy), found)
    assert copy.read_bytes() == path.read_bytes()
    assert next(criu_images.read_entries(str(path), Entry)).data == b"one"


@pytest.mark.parametrize(("connected", "refused"), [(True, True), (False, False)])
def test_a_kernel_that_can_not_hold_tcp_up(monkeypatch: pytest.MonkeyPatch, connected: bool, refused: bool) -> None:
    """It does no harm to a container without connections."""

    def hold(_: int) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(netlock, "hold", hold)
    dump = object.__new__(Dump)
    dump.pid, dump.holds_tcp, dump.has_connections = 7, True, connected
    with (
        pytest.raises(ShimError, match="can't be held up while they are dumped: Protocol")
        if refused
        else nullcontext(),
        dump._held_up(),
    ):
        pass
