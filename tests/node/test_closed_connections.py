"""TCP connections in the node's network: a restore closes them, and the program's next call on one fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.node.support import Life, Site, Spec
from tests.node.test_sockets import ANSWER, MADE, SERVE, beside, look, running, see, spec_of

NEXT = "and the program's next call fails as after a reset: "
CALLS = (
    MADE
    + """
import errno, os, struct, threading, time

def of(call):
    try:
        return repr(call())
    except OSError as error:
        return errno.errorcode[error.errno]

def polled(sock):
    poll = select.poll()
    poll.register(sock)
    (found,) = poll.poll(0) or [(0, 0)]
    return [name for name in ("POLLIN", "POLLOUT", "POLLERR", "POLLHUP") if found[1] & getattr(select, name)]

def epolled(sock):
    (found,) = [event for number, event in epoll.poll(0) if number == sock.fileno()] or [0]
    return [name for name in ("EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP") if found & getattr(select, name)]

def error_of(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

asked = 0

def look():
    global asked
    asked += 1
    return before() if asked == 1 else after()

def before():
    return None

def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET

"""
)


def inside(site: Site, program: str, *words: str, user: str = "alice", net: str = "node") -> Spec:
    """A container that runs this, and is asked by before() the first time, after that by after()."""
    spec = spec_of(site, user, net, "", *words)
    spec["process"]["args"][3] = CALLS + program + ANSWER
    return spec


@contextmanager
def as_alice(site: Site, program: str, *words: str) -> Iterator[tuple[Life, Any]]:
    with running(site, "alice", inside(site, program, *words)) as found:
        yield found


@contextmanager
def talking(site: Site, program: str, *words: str) -> Iterator[Any]:
    """A program on the node, whose lines are read."""
    argv = site.cluster.argv(site.node, ["python3", "-u", "-I", "-c", CALLS + program, *words], "root")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            yield other.stdout
        finally:
            other.kill()


# What each call on a socket gives, the first time and the second.
EACH = """
ASK = {
    "send": lambda sock: sock.send(b"x"),
    "recv": lambda sock: sock.recv(9),
    "peek": lambda sock: sock.recv(9, socket.MSG_PEEK),
    "sendfile": lambda sock: os.sendfile(sock.fileno(), os.open("/etc/passwd", os.O_RDONLY), 0, 9),
    "getpeername": lambda sock: sock.getpeername(),
    "SO_ERROR": error_of,
    "shutdown": lambda sock: sock.shutdown(socket.SHUT_WR),
    "poll": polled,
    "epoll": epolled,
}
socks = {name: socket.create_connection((sys.argv[2], int(sys.argv[3]))) for name in ASK}
epoll = select.epoll()
epoll.register(socks["epoll"], select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
if sys.argv[1] == "reset":
    for sock in socks.values():
        sock.send(b"reset")
    for sock in socks.values():
        select.select([sock], [], [])

def after():
    if asked < int(sys.argv[4]):
        return None
    return {name: [of(lambda: ASK[name](sock)) for _ in range(2)] for name, sock in socks.items()}
"""
# It resets whatever sends to it.
RESET = """
import struct, threading
listener = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
said = listener.getsockname()[1]
socks = []

def serve():
    while True:
        sock, _ = listener.accept()
        socks.append(sock)
        threading.Thread(target=reset, args=(sock,), daemon=True).start()

def reset(sock):
    if sock.recv(9):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

threading.Thread(target=serve, daemon=True).start()
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_each_call(site: Site, address: str) -> None:
    """It is the same as after a real reset: an error, and no end of what came; then an end."""
    with beside(site, RESET, address) as port:
        with as_alice(site, EACH, "reset", address, port, "2") as (life, _):
            real = look(life)
            assert life.end() == 0
        assert real["recv"] == ["ECONNRESET", "b''"]
        assert real["send"] == real["sendfile"] == ["ECONNRESET", "EPIPE"]
        assert real["SO_ERROR"] == ["104", "0"]
        with as_alice(site, EACH, "", address, port, "3") as (life, _):
            assert see(life) is None
            place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            assert f"{len(real)} TCP connections are closed, {NEXT}python3 (pid 1) with {place}\n" in life.said()
            # What the program has not called yet is as before, whatever comes between.
            assert see(life) == real
            assert life.said().count("are closed") == 1
            assert life.end() == 0


def test_an_error_that_is_not_known_yet(site: Site) -> None:
    """A real one, in a network of the container's own, is no orderly end after a restore either."""
    program = """
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
other, _ = listener.accept()
other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
other.close()
kept = socket.create_connection(listener.getsockname())
there, _ = listener.accept()
there.send(b"kept")

def after():
    return [of(lambda: one.recv(9)), of(lambda: one.recv(9)), of(lambda: kept.recv(9))]
"""
    for user, options in (("alice", []), ("root", ["--tcp-established"])):
        with running(site, user, inside(site, program, user=user, net="own")) as (life, _):
            life.checkpoint(*options)
            life.restore(*options)
            assert look(life) == ["ECONNRESET", "b''", "b'kept'"]
            assert "closed" not in life.said()
            assert life.end() == 0


# What is at the other end: it sends to each that comes, and closes it; or never accepts any, as many as fit.
SENDS = """
import threading, time
listener = socket.create_server(("127.0.0.1", 0))
quiet = socket.create_server(("127.0.0.1", 0))
full = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=0)
fill = [socket.socket() for _ in range(3)]
for sock in fill:
    sock.setblocking(False)
    sock.connect_ex(full.getsockname())
said = f"{listener.getsockname()[1]} {quiet.getsockname()[1]}"

def serve():
    while True:
        sock, _ = listener.accept()
        sock.send(b"left")
        sock.close()

threading.Thread(target=serve, daemon=True).start()
"""
STATES = """
sends, quiet, full = (("127.0.0.1", int(port)) for port in sys.argv[1:])
ended, half = socket.create_connection(sends), socket.create_connection(sends)
for sock in (ended, half):
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll()
ended.shutdown(socket.SHUT_WR)
shut = socket.create_connection(quiet)
shut.shutdown(socket.SHUT_WR)
begun = socket.socket()
begun.setblocking(False)
begun.connect_ex(full)
told = {}

def wait(name, call):
    def run():
        told[name] = of(call)
    threading.Thread(target=run, daemon=True).start()

blocked, polling, edge = (socket.create_connection(quiet) for _ in range(3))
wait("recv", lambda: blocked.recv(9))
wait("poll", lambda: select.select([polling], [], [])[0] == [polling])
epoll = select.epoll()
epoll.register(edge, select.EPOLLIN | select.EPOLLET)
wait("epoll", lambda: [number == edge.fileno() for number, _ in epoll.poll()])
wait("connect", lambda: socket.create_connection(full))

def before():
    time.sleep(0.1)  # the threads wait by then; if not, they begin to after the restore
    states = [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for sock in (ended, half, shut, begun)]
    return [*states, told]

def after():
    while len(told) < 3 + (asked > 2):
        time.sleep(0.01)
    if asked > 2:
        return told["connect"].startswith("<socket")
    found = [of(lambda: sock.recv(9)) for sock in (ended, half, shut)]
    return [*found, polled(begun), error_of(begun), told]
"""


def test_each_state(site: Site) -> None:
    """Whatever was under way comes to an error, but for a connect(2) that waits: that begins again."""
    port = "7081"
    with beside(site, SENDS, port) as ports, as_alice(site, STATES, *ports.split(), port) as (life, before):
        assert before == [7, 8, 5, 2, {}]
        (ended, half, shut, events, error, told) = see(life)
        assert [ended, half, shut] == ["ECONNRESET"] * 3
        assert (events, error) == (["POLLOUT", "POLLERR", "POLLHUP"], 104)
        assert told == {"recv": "ECONNRESET", "poll": "True", "epoll": "[True]"}
        assert "8 TCP connections are closed, " in life.said()
        assert life.end() == 0
    with beside(site, SENDS, port) as ports, as_alice(site, STATES, *ports.split(), port) as (life, before):
        life.checkpoint()
    with beside(site, f"listener = socket.create_server(('127.0.0.1', {port})); said = listener"):
        life.restore()
        look(life)
        assert look(life) is True
        life.stop()


ACCEPTED = """
listener = socket.socket(family(sys.argv[1]))  # without SO_REUSEADDR
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(1)
print(json.dumps("ready"), flush=True)
one, _ = listener.accept()
if sys.argv[3] == "shut":
    one.shutdown(socket.SHUT_WR)

def after():
    found = of(lambda: one.recv(9))
    new = socket.create_connection(listener.getsockname()[:2])
    new.send(b"new")
    return [found, of(lambda: listener.accept()[0].recv(9))]
"""
CALLER = """
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.send(b"sent")
print("connected")
print(of(lambda: sock.recv(9)))
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("address", "port", "shut", "told"),
    [("127.0.0.1", "7082", "", "ECONNRESET"), ("::1", "7084", "", "ECONNRESET"), ("::1", "7085", "shut", "b''")],
)
def test_accepted(site: Site, address: str, port: str, shut: str, told: str) -> None:
    """Its listener goes on listening. The other end is told of no orderly end, unless the program had made one."""
    spec = inside(site, ACCEPTED, "::" if ":" in address else "0.0.0.0", port, shut)
    life = site.container("alice", spec)
    try:
        with site.lending("alice"):
            life.run()
            assert life.process and life.process.stdout and json.loads(life.process.stdout.readline()) == "ready"
            with talking(site, CALLER, address, port) as caller:
                assert caller.readline() == "connected\n"
                assert look(life) is None
                life.checkpoint()
                assert caller.readline() == f"{told}\n"
            life.restore()
            assert look(life) == ["ECONNRESET", "b'new'"]
            assert "1 TCP connection is closed, " in life.said()
            assert life.end() == 0
    finally:
        life.stop()


def test_one_that_runs_on(site: Site) -> None:
    """Nothing becomes of its connections."""
    program = """
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))

def after():
    sock.send(b"x")
    return of(lambda: sock.recv(9, socket.MSG_DONTWAIT))
"""
    with beside(site, SERVE) as port, as_alice(site, program, port) as (life, _):
        life.checkpoint("--leave-running")
        assert look(life) == "EAGAIN"
        assert life.end() == 0


MULTIPATH = """
MPTCP = 262
listener = socket.socket(family(sys.argv[1]), socket.SOCK_STREAM, MPTCP)
listener.bind((sys.argv[1], 0))
listener.listen(4)
fresh = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
socks = []
for kind in sys.argv[2:]:
    one = socket.socket(family(sys.argv[1]), socket.SOCK_STREAM, MPTCP if kind == "mptcp" else 0)
    one.connect(listener.getsockname())
    socks += [one, listener.accept()[0]]
    one.send(b"sent")

def before():
    return [sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) for sock in (listener, *socks)]

def after():
    found = [of(lambda: sock.recv(9, socket.MSG_DONTWAIT)) for sock in socks]
    new = socket.socket(family(sys.argv[1]), socket.SOCK_STREAM, MPTCP)
    new.connect(listener.getsockname())
    new.send(b"new")
    fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    fresh.bind(("127.0.0.1", 0))
    return [*found, of(lambda: listener.accept()[0].recv(9))]
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_mptcp(site: Site, address: str) -> None:
    """As Go's net.Listen has it: the sockets are of TCP after that. Connections of MPTCP are closed, also within."""
    with as_alice(site, MULTIPATH, address, "tcp", "mptcp") as (life, before):
        assert before == [262, 6, 6, 262, 262]
        assert see(life) == ["EAGAIN", "b'sent'", "ECONNRESET", "ECONNRESET", "b'new'"]
        assert life.end() == 0


@pytest.mark.parametrize("user", ["root", "alice"])
def test_mptcp_in_a_network_of_its_own(site: Site, user: str) -> None:
    """Connections of TCP to such a listener are kept."""
    options = ["--tcp-established"] if user == "root" else []
    with running(site, user, inside(site, MULTIPATH, "127.0.0.1", "tcp", user=user, net="own")) as (life, before):
        assert before == [262, 6, 6]
        life.checkpoint(*options)
        life.restore(*options)
        assert look(life) == ["EAGAIN", "b'sent'", "b'new'"]
        assert life.end() == 0


def test_mptcp_is_refused(site: Site) -> None:
    """Its connections would have to be kept."""
    with running(site, "alice", inside(site, MULTIPATH, "127.0.0.1", "mptcp", net="own")) as (life, _):
        done = life.checkpoint(check=False)
        assert done.returncode == 1
        assert "(python3) has a connection of MPTCP, which CRIU can't dump: mptcp 127.0.0.1:" in done.stderr
        assert look(life) == ["EAGAIN", "b'sent'", "b'new'"]
        assert life.end() == 0


def test_roots(site: Site) -> None:
    """`restore --tcp-close` does the same, also to a connection that was dumped to be kept."""
    program = """
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))

def after():
    return [of(lambda: sock.recv(9)) for _ in range(2)]
"""
    with beside(site, SERVE) as port, running(site, "root", inside(site, program, port, user="root")) as (life, _):
        life.checkpoint("--tcp-established")
        life.restore("--tcp-close")
        assert look(life) == ["ECONNRESET", "b''"]
        assert life.end() == 0
