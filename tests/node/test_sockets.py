"""TCP and UDP sockets: which come back, with what was under way, and which are refused, in whose network."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.harness.cluster import wait_for
from tests.node.support import Life, Site, Spec

NETS = pytest.mark.parametrize("net", ["own", "node"])
USERS = pytest.mark.parametrize("user", ["root", "alice"])
ADDRESS = "10.99.0.1"
"""One that a node has and another one does not."""
MADE = "import json, select, socket, sys\n"
# Each line that comes in is answered by the value of `look()`.
ANSWER = """
for _ in sys.stdin:
    print(json.dumps(look()), flush=True)
"""
WAIT = """
print(said, flush=True)
sys.stdin.read()
"""


def spec_of(site: Site, user: str, net: str, program: str, *words: str) -> Spec:
    """A container that runs a program in a network of its own, or in the node's."""
    spec = site.spec(user)
    spec["process"]["args"] = ["python3", "-I", "-c", MADE + program + ANSWER, *words]
    others = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
    spec["linux"]["namespaces"] = [*others, *([{"type": "network"}] if net == "own" else [])]
    spec["mounts"] = [one for one in spec["mounts"] if not one["destination"].startswith("/sys")]
    return spec


@contextmanager
def beside(site: Site, program: str, *words: str, user: str = "root") -> Iterator[str]:
    """A program on the node runs in the block, and is killed; the line that it says at first."""
    argv = site.cluster.argv(site.node, ["python3", "-I", "-c", MADE + program + WAIT, *words], user)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout
            yield other.stdout.readline().strip()
        finally:
            other.kill()


@contextmanager
def running(site: Site, user: str, spec: Spec) -> Iterator[tuple[Life, Any]]:
    """The container, and what it sees at first."""
    life = site.container(user, spec)
    try:
        with site.lending(user):
            life.run()
            yield life, look(life)
    finally:
        life.stop()


def look(life: Life) -> Any:
    """What it sees."""
    return life.look()


def see(life: Life) -> Any:
    """What it sees after a checkpoint and a restore."""
    life.checkpoint()
    life.restore()
    return look(life)


ENDED = """
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
other, _ = listener.accept()
one.send(b"left")
one.shutdown(socket.SHUT_WR)
other.shutdown(socket.SHUT_WR)
if sys.argv[1] == "read":
    other.recv(9)
select.select([one], [], [])

def look():
    found = []
    for sock in (one, other):
        poll = select.poll()
        poll.register(sock)
        found.append(poll.poll(0)[0][1])
        for ask in (lambda: sock.send(b"x"), sock.getpeername, lambda: sock.recv(9, socket.MSG_PEEK)):
            try:
                found.append(repr(ask()))
            except OSError as error:
                found.append(error.strerror)
    return found
"""


@USERS
@NETS
def test_ended(site: Site, user: str, net: str) -> None:
    """Both ends have shut the connection down, and keep their sockets."""
    with running(site, user, spec_of(site, user, net, ENDED, "read")) as (life, before):
        assert before[1:4] == ["Broken pipe", "Transport endpoint is not connected", "b''"]
        assert see(life) == before
        assert life.end() == 0


@pytest.mark.parametrize(("user", "net"), [("alice", "own"), ("root", "own"), ("root", "node")])
def test_what_is_left_to_read(site: Site, user: str, net: str) -> None:
    with running(site, user, spec_of(site, user, net, ENDED, "")) as (life, before):
        assert before[-1] == "b'left'"
        assert see(life) == before
        assert life.end() == 0


def test_what_is_left_to_read_is_refused(site: Site) -> None:
    """A user's dump has no right to look into a socket of the node's network."""
    with running(site, "alice", refusing(spec_of(site, "alice", "node", ENDED, ""))) as (life, before):
        done = life.checkpoint(check=False)
        assert (done.returncode, look(life)) == (1, before)
        assert "(python3) has not read all of a TCP connection that has ended: 4 bytes (hint: have" in done.stderr
        assert life.end() == 0


# All that fits is under way, in both directions. Then the rest of a megabyte follows.
INNER = """
import hashlib, threading
data = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))
listener = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
one = socket.create_connection(listener.getsockname()[:2])
other, _ = listener.accept()
sent = {}
for sock in (one, other):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.setblocking(False)
    sent[sock] = 0
    try:
        while sent[sock] < len(data):
            sent[sock] += sock.send(data[sent[sock] :])
    except BlockingIOError:
        sock.setblocking(True)
asked = 0

def look():
    global asked
    asked += 1
    if asked == 1:
        return [sent[one] < len(data), sent[other] < len(data)]
    threads = [threading.Thread(target=sock.sendall, args=(data[sent[sock] :],)) for sock in (one, other)]
    for thread in threads:
        thread.start()
    found = [sock.recv(len(data), socket.MSG_WAITALL) == data for sock in (one, other)]
    for thread in threads:
        thread.join()
    return found
"""


@USERS
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_within(site: Site, user: str, address: str) -> None:
    with running(site, user, spec_of(site, user, "own", INNER, address)) as (life, before):
        assert before == [True, True]
        options = ["--tcp-established"] if user == "root" else []
        life.checkpoint(*options)
        life.restore(*options)
        assert look(life) == [True, True]
        assert life.end() == 0


CONNECT = """
from socket import *
listener = create_server(("127.0.0.1", 0))
create_connection(listener.getsockname(), 9)
"""


def test_connections_in_a_named_network(site: Site) -> None:
    """As podman names a pod's; no rule is left there."""
    site.exec(["sh", "-c", "ip netns add pod && ip -n pod link set lo up"])
    spec = spec_of(site, "root", "own", INNER, "127.0.0.1")
    (entry,) = (one for one in spec["linux"]["namespaces"] if one["type"] == "network")
    entry["path"] = "/run/netns/pod"
    try:
        with running(site, "root", spec) as (life, before):
            assert before == [True, True]
            life.checkpoint("--tcp-established")
            life.restore("--tcp-established")
            assert look(life) == [True, True]
            site.exec(["ip", "netns", "exec", "pod", "python3", "-I", "-c", CONNECT])
            assert life.end() == 0
    finally:
        site.exec(["ip", "netns", "del", "pod"])


@USERS
def test_connections_of_one_that_runs_on(site: Site, user: str) -> None:
    """Nothing keeps them from going on."""
    with running(site, user, spec_of(site, user, "own", INNER, "127.0.0.1")) as (life, before):
        assert before == [True, True]
        life.checkpoint("--leave-running", *(["--tcp-established"] if user == "root" else []))
        assert look(life) == [True, True]
        assert life.end() == 0


HOLD = """
sys.path.insert(0, "/usr/lib/oci-criu-shim")
from oci_criu_shim.host import netlock
held = netlock.hold(int(sys.argv[1]))
said = "held up"
"""
AGAIN = """
listener = socket.create_server(("127.0.0.1", 0))

def look():
    try:
        socket.create_connection(listener.getsockname(), 1)
        return "connected"
    except TimeoutError:
        return "held up"
"""


@USERS
def test_what_holds_up_is_killed(site: Site, user: str) -> None:
    """The kernel lets TCP go on at once."""
    with running(site, user, spec_of(site, user, "own", AGAIN)) as (life, before):
        assert before == "connected"
        with beside(site, HOLD, str(life.state()["pid"]), user=user) as said:
            assert said == look(life) == "held up"
        wait_for(lambda: look(life) == "connected", 10, "a connection")
        assert life.end() == 0


HALF = """
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
other, _ = listener.accept()
one.send(b"last")
one.shutdown(socket.SHUT_WR)
asked = 0

def look():
    global asked
    asked += 1
    if asked == 1:
        return []
    found = [repr(other.recv(9)), repr(other.recv(9))]
    other.send(b"answer")
    other.close()
    return [*found, repr(one.recv(9)), repr(one.recv(9))]
"""


def test_half_a_connection(site: Site) -> None:
    """One end has shut it down."""
    with running(site, "alice", spec_of(site, "alice", "own", HALF)) as (life, _):
        assert see(life) == ["b'last'", "b''", "b'answer'", "b''"]
        assert life.end() == 0


WAITING = """
listener = socket.create_server(("127.0.0.1", 0))
waiting = socket.create_connection(listener.getsockname()) if sys.argv[1] == "own" else None
asked = 0

def look():
    global asked
    asked += 1
    if asked == 1:
        return listener.getsockname()
    found = bool(select.select([listener], [], [], 0)[0])
    new = socket.create_connection(listener.getsockname())
    new.send(b"new")
    return [found, repr(listener.accept()[0].recv(9))]
"""


@pytest.mark.parametrize(("user", "net"), [("alice", "own"), ("alice", "node"), ("root", "node")])
def test_not_accepted(site: Site, user: str, net: str) -> None:
    """They are lost, and it says so; others are accepted."""
    with running(site, user, spec_of(site, user, net, WAITING, net)) as (life, (address, port)):
        if net == "node":
            with beside(site, f"said = socket.create_connection({(address, port)})"):
                done = life.checkpoint()
        else:
            done = life.checkpoint()
        assert f"has connections to tcp {address}:{port} that it has not accepted (1): they are lost" in done.stderr
        life.restore()
        assert look(life) == [False, "b'new'"]
        assert life.end() == 0


OUTER = """
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))

def look():
    return list(sock.getpeername())
"""
SERVE = "listener = socket.create_server(('127.0.0.1', 0)); said = listener.getsockname()[1]"


def refusing(spec: Spec) -> Spec:
    """The job doesn't want its connections closed."""
    spec["process"]["env"].append("SLURM_CHECKPOINT_TCP=refuse")
    return spec


@USERS
def test_connections_out(site: Site, user: str) -> None:
    """Root's, and a user's who wants that, are refused, with whom and to where, and run on."""
    with (
        beside(site, SERVE) as port,
        running(site, user, refusing(spec_of(site, user, "node", OUTER, "127.0.0.1", port))) as (life, before),
    ):
        done = life.checkpoint(check=False)
        assert (done.returncode, look(life)) == (1, before)
        assert "(python3) has a TCP connection open: tcp 127.0.0.1:" in done.stderr
        assert f" to 127.0.0.1:{port} (hint: " in done.stderr
        assert ("--tcp-established keeps it" in done.stderr) is (user == "root")
        assert ("--checkpoint-tcp=close has" in done.stderr) is (user != "root")
        assert life.end() == 0


def test_connections_to_slurmstepd(site: Site) -> None:
    """A rank of MPI that Slurm has started has one to the server that its environment names."""
    serve = "listener = socket.create_server(('127.0.0.1', 0)); said = listener.getsockname()[1]"
    with beside(site, serve) as port:
        spec = spec_of(site, "alice", "node", OUTER, "127.0.0.1", port)
        spec["process"]["env"].append(f"PMIX_SERVER_URI4=pmix-server.416;tcp4://127.0.0.1:{port}")
        with running(site, "alice", spec) as (life, before):
            done = life.checkpoint(check=False)
            assert (done.returncode, look(life)) == (1, before)
            assert "(python3) has joined the MPI of its step: it is connected to slurmstepd (hint: " in done.stderr
            assert life.end() == 0


BOUND = """
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
if kind == "connected":
    sock.connect((address, port))
else:
    sock.bind((address, port))
if kind == "tcp":
    sock.listen()

def look():
    if kind == "connected":
        sock.send(b"x")
    return list(sock.getsockname())
"""


@contextmanager
def with_address(site: Site) -> Iterator[None]:
    """The node has ADDRESS, until the block takes it away."""
    site.exec(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"])
    try:
        yield
    finally:
        site.exec(["ip", "address", "del", f"{ADDRESS}/32", "dev", "lo"], check=False)


def without_address(site: Site) -> None:
    site.exec(["ip", "address", "del", f"{ADDRESS}/32", "dev", "lo"])


@USERS
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_an_address_of_the_nodes(site: Site, user: str, kind: str) -> None:
    spec = spec_of(site, user, "node", BOUND, kind, ADDRESS, "7071")
    with with_address(site), running(site, user, spec) as (life, before):
        done = life.checkpoint()
        assert (
            f"(python3) uses {kind} {ADDRESS}:7071, an address of n1, so it goes on only on a node that" in done.stderr
        )
        without_address(site)
        life.restore()
        assert life.process and life.process.wait(60) == 1
        said = f"a program of the container's uses {kind} {ADDRESS}:7071, an address that this node does not have"
        assert said in life.said()
        with with_address(site):
            life.restore()
            assert look(life) == before
            assert life.end() == 0


@USERS
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_that_is_taken(site: Site, user: str, kind: str) -> None:
    with running(site, user, spec_of(site, user, "node", BOUND, kind, "0.0.0.0", "7072")) as (life, before):
        done = life.checkpoint()
        assert "7072" not in done.stderr
        with beside(site, BOUND + "said = kind", kind, "0.0.0.0", "7072"):
            life.restore()
            assert life.process and life.process.wait(60) == 1
            assert f"container's uses {kind} 0.0.0.0:7072, which another one uses on this node" in life.said()
        life.restore()
        assert look(life) == before
        assert life.end() == 0


NAMED = """
sock = socket.socket(socket.AF_UNIX)
sock.bind("\\0only one")
sock.listen()

def look():
    return sock.getsockname().decode()
"""


@USERS
def test_a_name_that_is_taken(site: Site, user: str) -> None:
    """Of a unix socket, which the node's network has only once."""
    with running(site, user, spec_of(site, user, "node", NAMED)) as (life, before):
        assert before == "\0only one"
        life.checkpoint()
        with beside(site, NAMED + "said = 0"):
            life.restore()
            assert life.process and life.process.wait(60) == 1
            assert "uses the abstract unix socket @only one, which another one uses on this node" in life.said()
        life.restore()
        assert look(life) == before
        assert life.end() == 0


@USERS
def test_connected_datagrams(site: Site, user: str) -> None:
    """They have whichever address the kernel chose, and get another one if they must."""
    spec = spec_of(site, user, "node", BOUND, "connected", ADDRESS, "7073")
    with with_address(site), running(site, user, spec) as (life, before):
        assert before[0] == ADDRESS
        done = life.checkpoint()
        assert "address" not in done.stderr
        without_address(site)
        site.exec(["ip", "route", "add", f"{ADDRESS}/32", "dev", "lo"])
        try:
            life.restore()
            after = look(life)
        finally:
            site.exec(["ip", "route", "del", f"{ADDRESS}/32", "dev", "lo"])
        assert after != before and json.dumps(after)
        assert life.end() == 0


MESSAGES = """
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind("\\0server")
server.setblocking(False)
clients = {}
for name in "ab":
    clients[name] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    clients[name].bind("\\0" + name)
clients["-"] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
clients["b"].connect("\\0server")
for name in sys.argv[1]:
    clients[name.lower()].sendto(b"" if name in "AB" else name.encode(), "\\0server")
asked = 0

def look():
    global asked
    asked += 1
    found = []
    while asked > 1:
        try:
            data, sender = server.recvfrom(9)
        except BlockingIOError:
            break
        found.append([data.decode(), sender and sender.decode()])
    return found
"""


@USERS
def test_messages_of_a_unix_socket(site: Site, user: str) -> None:
    """All are kept; who sent them is said to be known no longer, once."""
    with running(site, user, spec_of(site, user, "own", MESSAGES, "ab-")) as (life, _):
        said = [life.checkpoint("--leave-running").stderr for _ in range(2)]
        assert "(python3) has not read a message from the Unix socket @a: it will have come from any" in said[0]
        assert "message" not in said[1]
        assert [data for data, _ in see(life)] == ["a", "b", "-"]
        assert life.end() == 0
    with running(site, user, spec_of(site, user, "own", MESSAGES, "--")) as (life, _):
        assert "message" not in life.checkpoint("--leave-running").stderr
        assert look(life) == [["-", None]] * 2


@USERS
@pytest.mark.parametrize(
    ("sent", "reason"), [("Ab", "has an empty message to read from a Unix socket"), ("bA-", "empty message waits in a")]
)
def test_an_empty_message(site: Site, user: str, sent: str, reason: str) -> None:
    """What follows it would be lost: none is, and the container runs on."""
    with running(site, user, spec_of(site, user, "own", MESSAGES, sent)) as (life, _):
        done = life.checkpoint(check=False)
        assert done.returncode == 1
        assert reason in done.stderr
        assert [data for data, _ in look(life)] == ["" if name == "A" else name for name in sent]
        assert life.end() == 0
