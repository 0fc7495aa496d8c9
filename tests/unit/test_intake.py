"""How far standard input was read, and that a restart goes on there: in children, whose own input is not the tests'."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints.manifest import Source
from oci_criu_shim.container import intake
from oci_criu_shim.container.stdio import Pipes, unread
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux, process

TEXT = b"".join(b"line %d\n" % number for number in range(1, 200_001))
State = tuple[Source, bytes]


def holds(claim: Callable[[], bool]) -> bool:
    return process.wait(process.fork(lambda: int(not claim()))) == 0


def be_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.dup2(os.open(path, os.O_RDONLY), 0)


def be_pipe(content: bytes, ends: bool = True) -> int:
    """Our standard input gives the content, then ends; if it does not, return its other end."""
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    os.close(reader)
    process.fork(lambda: feed(writer, content))
    if ends:
        os.close(writer)
    return writer


def feed(writer: int, content: bytes) -> int:
    """In a child that has nothing else open, and ends with its parent."""
    linux.end_with_parent()
    os.dup2(writer, 0)
    os.closerange(1, 1000)
    with suppress(BrokenPipeError):
        while content:
            content = content[os.write(0, content) :]
    return 0


class Life:
    """A supervisor that copies, and a container that reads; what the container read is `got`."""

    def __init__(self, state: State | None = None, again: bool = True) -> None:
        self.told: list[str] = []
        self.stdio = Pipes(intake.resume(*state, again, self.told.append) if state else None)
        self.record = self.stdio.record()
        self.reader = os.dup(self.stdio.inside[0])
        self.stdio.started()
        os.set_blocking(self.reader, False)
        self.got = b""
        self.over = False

    def turn(self, milliseconds: int = 0) -> bool:
        """Copy what may be copied now; return whether anything was."""
        poll = select.poll()
        for descriptor, events in self.stdio.watch().items():
            poll.register(descriptor, events)
        ready = poll.poll(milliseconds)
        for descriptor, event in ready:
            self.stdio.ready(descriptor, event)
        return bool(ready)

    def read(self, size: int) -> None:
        try:
            found = os.read(self.reader, size)
        except BlockingIOError:
            return
        self.got += found
        self.over = not found

    def read_to(self, size: int) -> None:
        limit = time.monotonic() + 30
        while len(self.got) < size and not self.over:
            assert time.monotonic() < limit, f"{len(self.got)} of {size} bytes after half a minute"
            self.turn()
            self.read(min(size - len(self.got), 4096))

    def state(self) -> State:
        """What a checkpoint has of it."""
        with intake.Hold(f"/proc/self/fd/{self.record['input']}") as hold:
            source, pending = hold.taken()
            assert source
            return source, unread(f"/proc/self/fd/{self.record['outside'][0]}") + pending


def test_a_checkpoint_has_all_that_was_taken_and_not_read() -> None:
    """Whatever the supervisor is at: it is another process."""

    def claim() -> bool:
        be_pipe(TEXT)
        life = Life()
        record = life.record

        def supervise() -> int:
            linux.end_with_parent()
            os.close(life.reader)
            while True:
                life.turn(intake.RETRY_MS if life.stdio.intake.held or 0 not in life.stdio.outside else 1000)

        supervisor = process.fork(supervise)
        os.close(life.stdio.outside[0])
        chance, seen = random.Random(1), 0
        while not life.over:
            life.read(chance.randrange(1, 1 << 17))
            with intake.Hold(f"/proc/{supervisor}/fd/{record['input']}") as hold:
                source, pending = hold.taken()
                assert source
                waits = unread(f"/proc/{supervisor}/fd/{record['outside'][0]}") + pending
                fits = source["read"] == len(life.got) + len(waits) and TEXT[len(life.got) :].startswith(waits)
                seen += bool(pending)
            if not fits:
                return False
        os.kill(supervisor, signal.SIGKILL)
        return life.got == TEXT and seen > 0

    assert holds(claim)


@pytest.mark.parametrize("size", [0, 1, 35, 100_000, 1_000_000, len(TEXT)])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_restart_goes_on_where_the_container_was(tmp_path: Path, kind: str, size: int) -> None:
    """Twice, and then it reads to the end."""

    def claim() -> bool:
        def begin() -> None:
            be_file(tmp_path / "input", TEXT) if kind == "file" else be_pipe(TEXT)
            if kind == "file":
                os.utime(0, (1, 1))

        begin()
        life, got = Life(), b""
        for goal in (size, min(size + 50_000, len(TEXT)), len(TEXT) + 1):
            life.read_to(goal - len(got))
            got += life.got
            state = life.state()
            begin()
            life = Life(state)
        assert state[0]["ended"] and state[1] == b""
        life.read_to(1)
        return got == TEXT and life.got == b"" and life.over and not life.told

    assert holds(claim)


def test_what_had_ended_is_not_read_again(tmp_path: Path) -> None:
    """Not even if there is something else now, and nobody need wait for it."""

    def claim() -> bool:
        be_file(tmp_path / "input", b"1\n2\n3\n")
        life = Life()
        life.read_to(2)
        while 0 in life.stdio.outside:
            life.turn()
        state = life.state()
        assert state[1] == b"2\n3\n"
        be_pipe(b"other\n", ends=False)
        life = Life(state)
        life.read_to(100)
        return life.got == b"2\n3\n" and life.over and not life.told

    assert holds(claim)


def test_a_container_that_closed_its_input(tmp_path: Path) -> None:
    def claim() -> bool:
        be_file(tmp_path / "input", TEXT)
        life = Life()
        life.read_to(10)
        os.close(life.reader)
        while 0 in life.stdio.outside:
            life.turn()
        source, waits = life.state()
        return source["ended"] and waits == b""

    assert holds(claim)


def read_some(path: Path) -> State:
    be_file(path, TEXT)
    life = Life()
    life.read_to(100_000)
    return life.state()


@pytest.mark.parametrize("change", ["other", "shorter"])
def test_a_file_that_is_another_one_is_refused(tmp_path: Path, change: str) -> None:
    def claim() -> bool:
        state = read_some(tmp_path / "input")
        be_file(tmp_path / "input", TEXT.replace(b"7", b"8") if change == "other" else TEXT[:1000])
        with pytest.raises(ShimError, match=r"standard input, .*/input, is not what the container has read \d+ bytes"):
            Life(state)
        return True

    assert holds(claim)


def test_a_file_that_has_grown_goes_on(tmp_path: Path) -> None:
    def claim() -> bool:
        state = read_some(tmp_path / "input")
        be_file(tmp_path / "copy", TEXT + b"more\n")
        life = Life(state)
        life.read_to(len(TEXT) * 2)
        return life.got == (TEXT + b"more\n")[100_000:] and not life.told

    assert holds(claim)


@pytest.mark.parametrize("content", [TEXT.replace(b"77", b"88"), TEXT[:1000], None])
def test_what_can_not_be_the_same_is_said(tmp_path: Path, content: bytes | None) -> None:
    """What was taken before comes all the same."""

    def claim() -> bool:
        state = read_some(tmp_path / "input")
        if content is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        else:
            be_pipe(content)
        life = Life(state)
        life.read_to(len(TEXT) * 2)
        taken = state[0]["read"]
        rest = (content or b"")[taken:]
        assert len(life.told) == 1 and "standard input" in life.told[0]
        return life.got == TEXT[100_000:taken] + rest and life.over

    assert holds(claim)


@pytest.mark.parametrize("content", [b"typed\n", b"line 2", TEXT[1:]])
def test_another_input_is_not_skipped(tmp_path: Path, content: bytes) -> None:
    """One can tell by what it begins with. That is another one for later checkpoints, too."""

    def claim() -> bool:
        state = read_some(tmp_path / "input")
        be_pipe(content)
        life = Life(state)
        life.read_to(len(TEXT) * 2)
        kept = TEXT[100_000 : state[0]["read"]]
        assert life.got == kept + content and len(life.told) == 1 and "from its beginning" in life.told[0]
        return life.state()[0]["read"] == len(content)

    assert holds(claim)


@pytest.mark.parametrize("content", [b"typed\n", TEXT])
def test_by_hand_what_is_given_is_new(tmp_path: Path, content: bytes) -> None:
    """Unless it is the same file."""

    def claim() -> bool:
        state = read_some(tmp_path / "input")
        taken = state[0]["read"]
        be_pipe(content)
        life = Life(state, again=False)
        life.read_to(len(TEXT) * 2)
        be_file(tmp_path / "other", content)
        read = Life(state, again=False)
        read.read_to(len(TEXT) * 2)
        rest = TEXT[taken:] if content == TEXT else content
        return life.got == TEXT[100_000:taken] + content and read.got == TEXT[100_000:taken] + rest

    assert holds(claim)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    """Its end is not taken for the end of the input, silently; and somebody else's read for no end at all."""

    def claim() -> bool:
        be_file(tmp_path / "input", TEXT)
        os.dup2(os.open(tmp_path / "input", os.O_WRONLY), 0)
        told: list[str] = []
        taken = intake.Intake(tell=told.append)
        taken.read()
        assert taken.is_over and len(told) == 1 and "Bad file descriptor" in told[0]
        be_pipe(b"", ends=False)
        os.set_blocking(0, False)
        taken = intake.Intake(tell=told.append)
        taken.read()
        return taken.wants_more and len(told) == 1

    assert holds(claim)


def test_nothing_waits_for_a_checkpoint() -> None:
    def claim() -> bool:
        writer = be_pipe(b"", ends=False)
        life = Life()
        with intake.Hold(f"/proc/self/fd/{life.record['input']}") as hold:
            os.write(writer, b"late\n")
            life.turn(5000)
            life.turn()
            assert life.stdio.intake.held and hold.taken()[0] == life.stdio.intake.source and not life.turn()
        life.read_to(5)
        return life.got == b"late\n" and not life.stdio.intake.held

    assert holds(claim)


def test_a_supervisor_that_was_killed() -> None:
    with intake.Hold("/proc/self/fd/999") as hold:
        assert hold.taken() == (None, b"")
    with intake.Hold(None) as hold:
        assert hold.taken() == (None, b"")


def test_one_that_does_not_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PATIENCE", 0.01)
    path = f"/proc/self/fd/{intake.Intake().note}"
    with (
        intake.Hold(path),
        pytest.raises(ShimError, match="does not let go of its input"),
        intake.Hold(path),
    ):
        pass
