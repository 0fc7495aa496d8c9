"""TCP connections within a container in the node's network: a restore makes them anew, with what was under way."""

from __future__ import annotations

import pytest

from tests.node.support import Site
from tests.node.test_closed_connections import as_alice
from tests.node.test_sockets import look, see

# Pairs of a client and what a server has accepted, on a socket that listens at an address of a family.
PAIRS = """
def pair(listener, address, kind=socket.AF_INET):
    one = socket.socket(kind)
    one.connect((address, listener.getsockname()[1]))
    return one, listener.accept()[0]

def names(*socks):
    return [[list(sock.getsockname()), list(sock.getpeername())] for sock in socks]

def under_way(sock):
    sock.setblocking(False)
    return sock.recv(99).decode()
"""
BOTH_WAYS = """
listener = socket.create_server((sys.argv[1], 7093), family=family(sys.argv[1]), dualstack_ipv6=sys.argv[1] == "::")
one, other = pair(listener, sys.argv[2], socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET)
one.send(b"there")
one.send(b" and")
other.send(b"back")
known = names(one, other)

def after():
    same = names(one, other) == known
    found = [under_way(other), under_way(one)]
    other.send(b"more")
    one.close()
    return [same, *found, names(*pair(listener, sys.argv[2], one.family))[0][1][1]]
"""


@pytest.mark.parametrize(
    ("listening", "address"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.7"), ("::1", "::1"), ("::", "127.0.0.1"), ("::", "::1")],
)
def test_both_ways(site: Site, listening: str, address: str) -> None:
    """They have their addresses again, and the socket that listens has its own."""
    with as_alice(site, PAIRS + BOTH_WAYS, listening, address) as (life, _):
        said = life.checkpoint("--leave-running").stderr
        assert "TCP" not in said
        assert see(life) == [True, "there and", "back", 7093]
        assert "closed" not in life.said()
        assert life.end() == 0


STATES = """
import struct
listener = socket.socket()
listener.bind(("127.0.0.1", 7094))  # without SO_REUSEADDR
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 212992)
listener.listen()
ends = {name: pair(listener, "127.0.0.1") for name in ("shut", "set", "much", "held", "idle")}
ends["shut"][0].send(b"last")
ends["shut"][0].shutdown(socket.SHUT_WR)
for option in (socket.TCP_NODELAY, socket.TCP_KEEPIDLE):
    ends["set"][1].setsockopt(socket.IPPROTO_TCP, option, 77)
ends["set"][1].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
ends["set"][1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 70000))
ends["set"][0].setblocking(False)
ends["much"][0].settimeout(1)
many = bytes(range(256)) * 800
ends["much"][0].sendall(many)
held = os.dup(ends["held"][1].fileno())
ends["held"][1].close()
epoll = select.epoll()
epoll.register(ends["idle"][1], select.EPOLLIN | select.EPOLLET)

def after():
    sock = ends["set"][1]
    found = {"set": [sock.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_NODELAY, socket.TCP_KEEPIDLE)]}
    found["set"] += [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    found["set"] += [os.get_blocking(ends["set"][0].fileno())]
    found["wait"] = of(lambda: ends["set"][1].recv(1))
    found["shut"] = [ends["shut"][1].recv(99).decode(), of(lambda: ends["shut"][1].recv(99))]
    ends["shut"][1].send(b"answer")
    found["shut"].append(ends["shut"][0].recv(99).decode())
    ends["much"][1].settimeout(1)
    read = b""
    while len(read) < len(many):
        read += ends["much"][1].recv(len(many))
    found["much"] = read == many
    os.write(held, b"dup")
    found["held"] = ends["held"][0].recv(9).decode()
    ends["idle"][0].send(b"x")
    found["idle"] = [number == ends["idle"][1].fileno() for number, _ in epoll.poll(1)]
    again = socket.socket()
    found["port"] = of(lambda: again.bind(("127.0.0.1", 7094)))
    return found
"""


def test_each_state(site: Site) -> None:
    """Half of one that is shut down; options; more than a buffer's default; a copy of a descriptor; an epoll set."""
    with as_alice(site, PAIRS + STATES) as (life, _):
        life.checkpoint()
        life.restore()
        assert look(life) == {
            "set": [1, 77, 1, False],
            "wait": "EAGAIN",
            "shut": ["last", "b''", "answer"],
            "much": True,
            "held": "dup",
            "idle": [True],
            "port": "EADDRINUSE",
        }
        assert "closed" not in life.said()
        assert life.end() == 0


FULL = """
listener = socket.create_server(("127.0.0.1", 7093))
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
one, other = pair(listener, "127.0.0.1")
one.setblocking(False)
while of(lambda: one.send(bytes(65536))).isdecimal():
    pass

def after():
    return [of(lambda: sock.recv(9)) for sock in (other, one)]
"""


def test_what_the_other_end_has_no_room_for(site: Site) -> None:
    """The kernel shows it to nobody: both ends are closed, and that is said."""
    with as_alice(site, PAIRS + FULL) as (life, _):
        life.checkpoint()
        life.restore()
        assert look(life) == ["ECONNRESET"] * 2
        assert "2 TCP connections are closed, " in life.said()
        assert life.end() == 0
