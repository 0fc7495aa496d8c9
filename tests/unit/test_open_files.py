"""Which files a process has open for writing, and that what they hold is on disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints.manifest import Written
from oci_criu_shim.dump import open_files
from oci_criu_shim.host import process

PROGRAM = """
import os, sys
print(flush=True)
sys.stdin.read()
"""
Run = Callable[..., int]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts a process that holds descriptors, below a shell that stands for the init; that one's pid."""
    running = []

    def start(*descriptors: int) -> int:
        argv = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", PROGRAM]
        pipe = subprocess.PIPE
        program = subprocess.Popen(argv, stdin=pipe, stdout=pipe, pass_fds=descriptors)
        running.append(program)
        assert program.stdout
        program.stdout.readline()
        return program.pid

    yield start
    for program in running:
        program.communicate()


def find(rows: list[Written], path: Path) -> Written | None:
    found = [row for row in rows if os.path.join(row["mount"], row["name"]) == str(path)]
    assert len(found) < 2
    return found[0] if found else None


def test_what_is_open_for_writing(run: Run, tmp_path: Path) -> None:
    for name in ("plain", "read", "gone"):
        (tmp_path / name).write_text("12345")
    plain = os.open(tmp_path / "plain", os.O_RDWR)
    read = os.open(tmp_path / "read", os.O_RDONLY)
    gone = os.open(tmp_path / "gone", os.O_WRONLY)
    (tmp_path / "gone").unlink()
    rows = open_files.look(run(plain, read, gone, os.dup(plain)))
    row = find(rows, tmp_path / "plain")
    assert row and (row["size"], row["inode"], "others" in row) == (5, os.stat(tmp_path / "plain").st_ino, False)
    assert find(rows, tmp_path / "read") is find(rows, tmp_path / "gone") is None
    json.dumps(rows)


@pytest.mark.parametrize(
    ("own", "more", "others"), [(b"", b"", False), (b"1", b"", False), (b"1", b"2", True), (b"", b"2", False)]
)
def test_who_appended_last(run: Run, tmp_path: Path, own: bytes, more: bytes, others: bool) -> None:
    path = tmp_path / "ledger"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, own)
    with path.open("ab") as stream:
        stream.write(more)
    row = find(open_files.look(run(descriptor)), path)
    assert row and row["others"] is others


def test_the_newest_of_several_descriptors_counts(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first, second = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2))
    os.write(first, b"one")
    os.write(second, b"two")
    row = find(open_files.look(run(first, second)), path)
    assert row and row["others"] is False


@pytest.fixture
def zombie(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is seen as a child that ended and was not waited for; only root may look at its descriptors."""
    child = process.fork(lambda: 0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    listdir = os.listdir

    def refused(path: str) -> list[str]:
        if path == f"/proc/{child}/fd":
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refused)
    yield child
    process.wait(child)


def test_a_zombie_has_nothing_open(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zombie: int) -> None:
    descriptor = os.open(tmp_path / "one", os.O_WRONLY | os.O_CREAT)
    init, tree = run(descriptor), process.tree
    monkeypatch.setattr(process, "tree", lambda pid: [*tree(pid), zombie])
    assert find(open_files.look(init), tmp_path / "one")
    open_files.sync(init, frozen=True)
    with pytest.raises(PermissionError):  # an init that has ended is no container
        open_files.look(zombie)


@pytest.mark.parametrize("call", ["listdir", "lstat", "stat", "open"])
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.EPERM])
def test_what_comes_and_goes_is_not_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """But once all is frozen, nothing does."""
    init = run(os.open(tmp_path / "one", os.O_WRONLY | os.O_CREAT))
    real = getattr(os, call)

    def fails(path: str, *arguments: int) -> object:
        if path.startswith(f"/proc/{init}/fd"):
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments)

    monkeypatch.setattr(os, call, fails)
    open_files.sync(init, frozen=False)
    if (call, number) != ("open", errno.EPERM):
        with pytest.raises(OSError, match=os.strerror(number)):
            open_files.sync(init, frozen=True)


def test_what_can_not_be_flushed_is_an_error_in_any_case(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    init = run(os.open(tmp_path / "one", os.O_WRONLY | os.O_CREAT))
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        open_files.sync(init, frozen=False)


def test_what_is_read(run: Run, tmp_path: Path) -> None:
    """Not what is written as well, nor what has no name any more."""
    for name in ("read", "both", "gone"):
        (tmp_path / name).write_text("12345")
    held = [os.open(tmp_path / name, os.O_RDONLY) for name in ("read", "both", "gone")]
    held.append(os.open(tmp_path / "both", os.O_RDWR))
    (tmp_path / "gone").unlink()
    init = run(*held)
    rows = open_files.only_read(open_files.read(init), open_files.look(init))
    found = {os.path.join(row["mount"], row["name"]): row["modified_ns"] for row in rows}
    path = tmp_path / "read"
    assert {name: ns for name, ns in found.items() if name.startswith(str(tmp_path))} == {
        str(path): path.stat().st_mtime_ns
    }
    assert not any(name.endswith(".so.6") for name in found)
