"""Which of our own streams are copied to and from a container, and how: in children, whose own are not the tests'."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
from collections.abc import Callable

import pytest

from oci_criu_shim.container.stdio import Pipes, Stdio, unread
from oci_criu_shim.container.terminal import Terminal
from oci_criu_shim.host import process


def holds(claim: Callable[[], bool]) -> bool:
    return process.wait(process.fork(lambda: int(not claim()))) == 0


def read(descriptor: int) -> bytes:
    return os.read(descriptor, 1 << 20)


def turn(stdio: Stdio) -> None:
    """What a supervisor does with its output."""
    poll = select.poll()
    for descriptor, events in stdio.watch().items():
        if descriptor != 0:
            poll.register(descriptor, events)
    for descriptor, event in poll.poll(0):
        stdio.ready(descriptor, event)


def test_a_full_disk_ends_nothing() -> None:
    def claim() -> bool:
        stdio, disk = Pipes(), os.dup(1)
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        for text in (b"gone", b"gone, too"):
            os.write(stdio.inside[1], text)
            stdio.drain()
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.write(stdio.inside[1], b"kept")
        stdio.drain()
        os.dup2(disk, 1)
        return stdio.lost is not None and stdio.lost.errno == errno.ENOSPC and read(reader) == b"kept"

    assert holds(claim)


def test_a_program_is_told_that_nobody_reads() -> None:
    def claim() -> bool:
        stdio, (reader, writer) = Pipes(), os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
        os.write(stdio.inside[1], b"x")
        stdio.drain()
        return 1 not in stdio.outside and stdio.lost is None

    assert holds(claim)


def test_what_does_not_go_out_is_kept() -> None:
    def claim() -> bool:
        stdio, (reader, writer) = Pipes(), os.pipe()
        os.dup2(writer, 1)
        text = os.urandom(100_000)
        copied = b""
        for start in range(0, len(text), 25_000):
            os.write(stdio.inside[1], text[start : start + 25_000])
            turn(stdio)
        waits = stdio.watch().get(1) == select.POLLOUT and stdio.outside[1] not in stdio.watch()
        while len(copied) < len(text):
            copied += read(reader)
            turn(stdio)
        return waits and copied == text

    assert holds(claim)


def test_a_terminal_that_is_hung_up() -> None:
    def claim() -> bool:
        ours, slave = pty.openpty()
        os.dup2(slave, 0)
        os.dup2(slave, 1)
        os.close(slave)
        terminal = Terminal()
        master, inside = pty.openpty()
        terminal.attach(master)
        terminal.started()
        resized = terminal.resized()
        os.close(ours)
        os.write(inside, b"x")
        terminal.drain()
        terminal.ended()
        lost = terminal.lost is not None and terminal.lost.errno == errno.EIO
        return resized and not terminal.resized() and lost and terminal.master == master

    assert holds(claim)


def test_a_terminal_that_nobody_in_the_container_has() -> None:
    """What was typed goes nowhere, and nothing waits for it."""

    def claim() -> bool:
        terminal = Terminal()
        master, inside = pty.openpty()
        terminal.attach(master)
        os.close(inside)
        terminal.intake.pending, terminal.output[1] = b"typed", b"written"
        terminal.ready(master, select.POLLHUP)
        return not terminal.intake.pending and master not in terminal.watch()

    assert holds(claim)


def test_a_terminal_that_is_shared_is_not_read() -> None:
    """Who types there types for the container."""
    stdio = Pipes(before=["/dev/pts/3", "pipe:[11]", "pipe:[12]"])
    assert set(stdio.watch()) == {stdio.outside[1], stdio.outside[2]}
    assert stdio.record()["streams"][0] == "/dev/pts/3"
    assert stdio.record()["streams"][1] == f"pipe:[{stdio.inodes[1]}]"


def test_input_is_copied_to_a_pipe() -> None:
    assert 0 in Pipes().watch() and 0 in Pipes(before=["pipe:[1]", "pipe:[2]", "/dev/null"]).watch()


def test_input_is_read_and_left() -> None:
    reader, writer = os.pipe()
    path = f"/proc/self/fd/{reader}"
    assert unread(path) == b""
    os.write(writer, b"waiting" * 1000)
    assert unread(path) == b"waiting" * 1000
    assert os.read(reader, 1 << 16) == b"waiting" * 1000
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize(("size", "enlarged"), [(0, False), (5000, False), (100_000, True)])
def test_a_pipe_is_enlarged_only_where_it_must_be(monkeypatch: pytest.MonkeyPatch, size: int, enlarged: bool) -> None:
    """A user who has many pipes may not."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(writer, bytes(range(200)) * (size // 200))
    real = fcntl.fcntl

    def refuses(descriptor: int, command: int, *arguments: int) -> int:
        if command == fcntl.F_SETPIPE_SZ and not enlarged:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(descriptor, command, *arguments)

    monkeypatch.setattr(fcntl, "fcntl", refuses)
    assert unread(f"/proc/self/fd/{reader}") == bytes(range(200)) * (size // 200)
    os.close(writer)
    os.close(reader)
