"""A TCP connection that is closed comes back as after a reset (spank/criu_reset.c)."""

from __future__ import annotations

import ctypes
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "spank/criu_reset.c"
IN_A_NETWORK = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c")
SCRIPT = """
import ctypes, json, socket, sys
library, family, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sock = socket.socket(family)
done = ctypes.CDLL(library, use_errno=True).shutdown(sock.fileno(), how)
print(json.dumps([done, ctypes.get_errno() if done else sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("reset") / "criu_reset.so"
    subprocess.run(["cc", "-std=gnu17", "-shared", "-fPIC", "-o", path, str(SOURCE)], check=True)
    return str(path)


@pytest.fixture
def shutdown(library: str) -> Callable[[socket.socket, int], int]:
    def call(sock: socket.socket, how: int) -> int:
        return int(ctypes.CDLL(library).shutdown(sock.fileno(), how))

    return call


def twice(call: Callable[[], Any]) -> list[Any]:
    found = []
    for _ in range(2):
        try:
            found.append(call())
        except OSError as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize(("call", "then"), [("recv", b""), ("send", "BrokenPipeError")])
def test_a_connection(
    shutdown: Callable[[socket.socket, int], int], family: socket.AddressFamily, call: str, then: object
) -> None:
    with socket.socket(family) as sock:
        assert shutdown(sock, socket.SHUT_RDWR) == -1  # as the kernel has it: it is not connected
        assert sock.getblocking()
        assert twice(lambda: sock.recv(1) if call == "recv" else sock.send(b"x")) == ["ConnectionResetError", then]


def test_one_that_was_being_made(shutdown: Callable[[socket.socket, int], int]) -> None:
    """It can be connected."""
    with socket.socket() as sock, socket.create_server(("127.0.0.1", 0)) as listener:
        assert shutdown(sock, socket.SHUT_WR) == 0
        sock.connect(listener.getsockname())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.send(b"x") == 1


def test_others(shutdown: Callable[[socket.socket, int], int]) -> None:
    """What has ended, what is connected, and other protocols."""
    with socket.socket() as ended, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        shutdown(ended, socket.SHUT_RD)
        shutdown(datagram, socket.SHUT_RDWR)
        assert ended.recv(1) == datagram.recv(1) == b""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            assert shutdown(one, socket.SHUT_RDWR) == 0
            assert other.recv(1) == b""
    first, second = socket.socketpair()
    with first, second:
        assert shutdown(first, socket.SHUT_WR) == 0
        assert second.recv(1) == b""


@pytest.mark.parametrize(
    ("before", "family", "errors"),
    [
        ("ip link set lo up", socket.AF_INET, [104]),
        ("ip link set lo up", socket.AF_INET6, [104]),
        # By the address of IPv4.
        ("sh -c 'echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6; ip link set lo up'", socket.AF_INET6, [104]),
        ("true", socket.AF_INET, [101, 99]),  # ENETUNREACH, EADDRNOTAVAIL
    ],
)
def test_networks(library: str, before: str, family: int, errors: list[int]) -> None:
    """Where lo is down, CRIU gets an error, and gives up."""
    argv = [*IN_A_NETWORK, f'{before}; exec "$@"', "sh", sys.executable, "-I", "-c", SCRIPT]
    argv += [library, str(int(family)), str(socket.SHUT_WR)]
    done, error = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    assert (done, error in errors) == (0 if 104 in errors else -1, True)
