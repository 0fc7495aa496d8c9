"""A child of ours in another process's namespaces."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator

import pytest

from oci_criu_shim.host import linux, namespaces, process

PR_GET_DUMPABLE = 3
libc = ctypes.CDLL(None)


@pytest.fixture
def other() -> Iterator[int]:
    """A process in a user namespace of its own."""
    reader, writer = os.pipe()

    def wait() -> int:
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(writer, b"r")
        time.sleep(60)
        return 0

    pid = process.fork(wait)
    os.close(writer)
    made = os.read(reader, 1)
    os.close(reader)
    try:
        if not made:
            pytest.skip("no user namespace can be made here")
        yield pid
    finally:
        os.kill(pid, 9)
        process.wait(pid)


def test_nobody_in_there_can_trace_it(other: int) -> None:
    def enter() -> int:
        entered = namespaces.enter(other, ("user", "net"))
        return int(entered != {"user"} or libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)

    assert process.wait(process.fork(enter)) == 0


def test_our_own_are_not_entered() -> None:
    assert namespaces.enter(os.getpid(), ("user", "net")) == set()
    assert libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1
