"""Which files a process has open for writing, and how they go back to their length at a checkpoint."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container import stdio
from oci_criu_shim.dump import open_files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import tasks

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


class Lines(Log):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def event(self, text: str, kind: str = "", **facts: object) -> None:
        self.lines.append(text)


def find(rows: list[dict[str, Any]], path: Path) -> dict[str, Any] | None:
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


def row_of(path: Path, size: int, **more: object) -> dict[str, Any]:
    return {"mount": "/data", "name": path.name, "size": size, "inode": path.stat().st_ino, **more}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "store/12/0.0"
    path.mkdir(parents=True)
    return path


def rollback(task: Path, base: Path, *rows: dict[str, Any]) -> tuple[open_files.Rollback, Lines]:
    checkpoint = Checkpoint(str(task / "1"), {"written": list(rows)})
    log = Lines()
    return open_files.Rollback(checkpoint, str(task / "cut"), {"/data": str(base)}, log), log


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base/inner").mkdir(parents=True)
    (tmp_path / "base/ledger").write_text("before after")
    return tmp_path / "base"


def test_longer_goes_back_and_what_is_cut_off_is_kept(task: Path, base: Path) -> None:
    found, log = rollback(task, base, row_of(base / "ledger", 7, others=False))
    assert found
    found.run()
    assert (base / "ledger").read_text() == "before "
    kept = task / "cut/1-ledger"
    assert kept.read_text() == "after"
    assert log.lines == [
        f"/data/ledger goes back to its length at the checkpoint (7 bytes); what came after it is kept in {kept}"
    ]
    with (base / "ledger").open("a") as stream:
        stream.write("again")
    rollback(task, base, row_of(base / "ledger", 7))[0].run()
    assert (task / "cut/2-ledger").read_text() == "again"


@pytest.mark.parametrize("size", [12, 13])
def test_equal_and_shorter_stay(task: Path, base: Path, size: int) -> None:
    assert not rollback(task, base, row_of(base / "ledger", size))[0]


def test_what_was_replaced_meanwhile_stays(task: Path, base: Path) -> None:
    found, log = rollback(task, base, row_of(base / "ledger", 7))
    (base / "ledger").write_text("before ")
    found.run()
    assert log.lines == []
    assert not (task / "cut").exists()


def test_gone_and_unknown_stay(task: Path, base: Path) -> None:
    row = row_of(base / "ledger", 1)
    assert not rollback(task, base, {**row, "name": "none"}, {**row, "mount": "/else"})[0]


def test_a_file_that_is_mounted_itself(task: Path, base: Path) -> None:
    row = {**row_of(base / "ledger", 7), "name": ""}
    log = Lines()
    found = open_files.Rollback(
        Checkpoint(str(task / "1"), {"written": [row]}), str(task / "cut"), {"/data": str(base / "ledger")}, log
    )
    found.run()
    assert (base / "ledger").read_text() == "before "
    assert (task / "cut/1-data").read_text() == "after"


@pytest.mark.parametrize("name", ["link", "linked/ledger"])
def test_no_symbolic_link_is_followed(task: Path, base: Path, name: str) -> None:
    outside = base.parent / "outside"
    outside.mkdir()
    (outside / "ledger").write_text("before after")
    (base / "link").symlink_to(outside / "ledger")
    (base / "linked").symlink_to(outside)
    found, _ = rollback(task, base, {**row_of(base / "ledger", 7), "name": name})
    if found:
        with pytest.raises(ShimError, match=f"/data/{name} cannot go back to its length at the checkpoint"):
            found.run()
    assert (outside / "ledger").read_text() == "before after"


def test_what_others_append_to_stays(task: Path, base: Path) -> None:
    found, log = rollback(task, base, row_of(base / "ledger", 7, others=True))
    found.run()
    assert (base / "ledger").read_text() == "before after"
    assert "others write it too" in log.lines[0]


@pytest.mark.parametrize(
    ("key", "alive", "stays"),
    [("12/1.0", set(), True), ("13/0.0", {13}, True), ("13/0.0", {12}, False), ("13/0.0", None, True)],
    ids=["own-job", "running", "ended", "unknown"],
)
def test_what_another_task_has_open_stays(
    task: Path, base: Path, monkeypatch: pytest.MonkeyPatch, key: str, alive: set[int] | None, stays: bool
) -> None:
    row = row_of(base / "ledger", 7)
    manifests = {f"{key}/2": [row], f"{key}/1": [], "12/0.0/1": [row]}
    for path in manifests:
        (task.parent.parent / path).mkdir(parents=True)
    (task.parent.parent / "rates").mkdir()
    (task.parent.parent / "12/file").touch()
    (task.parent.parent / "2024").touch()

    def read(path: str) -> Checkpoint:
        return Checkpoint(path, {"written": manifests["/".join(path.split("/")[-3:])]})

    def known_jobs(ended: bool) -> set[int]:
        if alive is None:
            raise ShimError("squeue: not now")
        return alive

    monkeypatch.setattr("oci_criu_shim.checkpoints.store.read", read)
    monkeypatch.setattr("oci_criu_shim.slurm.controller.known_jobs", known_jobs)
    found, log = rollback(task, base, row)
    found.run()
    assert (base / "ledger").read_text() == ("before after" if stays else "before ")
    assert ("others write it too" in log.lines[0]) is stays


def test_nothing_is_cut_that_could_not_be_kept(task: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    found, _ = rollback(task, base, row_of(base / "ledger", 7))
    with pytest.raises(ShimError, match="No space left") as raised:
        found.run()
    assert raised.value.hint.startswith(f"make room for what is cut off, in {task}/cut")
    assert (base / "ledger").read_text() == "before after"
    assert os.listdir(task / "cut") == []


@pytest.mark.parametrize(
    ("left_running", "taken", "restarts", "goes_back"),
    [(True, 0, 0, True), (True, 0, 1, True), (False, 0, 1, False), (False, 0, 2, True), (False, 3, 4, False)],
)
def test_only_where_the_container_has_run_since(
    task: Path, left_running: bool, taken: int, restarts: int, goes_back: bool
) -> None:
    checkpoint = Checkpoint(str(task / "1"), {"left_running": left_running, "restarts": taken})
    environment = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": str(restarts)}
    assert open_files.place(checkpoint, tasks.Task(environment)) == (str(task / "cut") if goes_back else None)
    assert open_files.place(checkpoint, tasks.Task({**environment, "SLURM_JOB_ID": "2"})) is None


def test_what_was_cut_off_outlives_the_checkpoints(tmp_path: Path) -> None:
    store = Store(str(tmp_path), "12/0.0")
    store.prepare()
    (tmp_path / "12/0.0/1").mkdir()
    (tmp_path / "12/0.0/cut").mkdir()
    store.mark_started()
    store.clear()
    assert os.listdir(tmp_path / "12/0.0") == ["cut"]
    store.forget()
    assert os.listdir(tmp_path) == []


def test_input_is_read_and_left() -> None:
    reader, writer = os.pipe()
    path = f"/proc/self/fd/{reader}"
    assert stdio.unread(path) == b""
    os.write(writer, b"waiting" * 1000)
    assert stdio.unread(path) == b"waiting" * 1000
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
    assert stdio.unread(f"/proc/self/fd/{reader}") == bytes(range(200)) * (size // 200)
    os.close(writer)
    os.close(reader)
