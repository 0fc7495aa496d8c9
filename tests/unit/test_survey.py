"""What is seen of running processes, and told before anything is frozen."""

from __future__ import annotations

import os
import resource
import select
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump.faults import descriptors, files, processes
from oci_criu_shim.dump.proc import PEEK_OFF, Descriptor, Process, Status, first_message
from oci_criu_shim.dump.survey import Survey
from oci_criu_shim.host import cgroups, criu, criu_images, mounts, process
from tests.harness.cluster import wait_for


def survey(pid: int, **given: Any) -> Survey:
    return Survey(pid, Bundle("/b", {"root": {"path": "rootfs"}}), **given)


@pytest.mark.parametrize(("error", "refused"), [(PermissionError, True), (ProcessLookupError, False)])
def test_limits_of_others(monkeypatch: pytest.MonkeyPatch, error: type[OSError], refused: bool) -> None:
    """A root without CAP_SYS_RESOURCE; a process that has ended meanwhile."""

    def prlimit(pid: int, _: int) -> None:
        raise error

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    here = survey(os.getpid())
    assert not list(processes.unlimited(here))
    monkeypatch.setattr(resource, "prlimit", prlimit)
    said = [str(fault) for fault in processes.unlimited(here)]
    assert said == [f"process {os.getpid()} runs as another user, whose limits this root may not ask for"] * refused


def test_what_it_was_given() -> None:
    reader, writer = os.pipe()
    pipe = f"pipe:[{os.fstat(reader).st_ino}]"
    with subprocess.Popen(["sleep", "60"], pass_fds=[writer]) as child:
        try:
            (fault,) = descriptors.preserved(survey(child.pid, preserved=[pipe, "pipe:[0]"]))
            assert "was given by --preserve-fds, which leads out" in str(fault)
            assert not list(descriptors.preserved(survey(child.pid, preserved=["pipe:[0]"])))
        finally:
            child.kill()
            os.close(reader)
            os.close(writer)


def test_what_ends_while_it_is_looked_at_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir
    with subprocess.Popen(["sleep", "60"]) as child:

        def ends(path: str) -> list[str]:
            child.kill()
            child.wait()
            return listdir(path)

        monkeypatch.setattr(os, "listdir", ends)
        found = Process(child.pid)
        assert found.descriptors == []
        assert found.status.get("Name") == []


# Its child opens a FIFO before it turns into a program, and its parent waits for that uninterruptibly (vfork(2)).
WAITS = """
import os, sys
os.mkfifo(sys.argv[1])
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, sys.argv[1], os.O_WRONLY, 0)])
os.read(0, 1)
"""


def _waits(pid: int, fifo: Path) -> bool:
    """Whether a process waits for its FIFO: before it is there, it waits for its program to be read, too."""
    return fifo.exists() and (process.stat_fields(pid) or "R")[0] == "D"


def test_what_can_not_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WAIT_SECONDS", 0.2)
    fifo = tmp_path / "fifo"
    with subprocess.Popen([sys.executable, "-c", WAITS, fifo], stdin=subprocess.PIPE) as child:
        wait_for(lambda: _waits(child.pid, fifo), 10, "a process that waits")
        (fault,) = processes.unstoppable(survey(child.pid))
        assert f"process {child.pid} (python" in str(fault) and "can't be stopped: it waits for a child that" in str(
            fault
        )
        with monkeypatch.context() as frozen:
            frozen.setattr(cgroups, "frozen", lambda _: "/sys/fs/cgroup/freezer/it")
            assert not list(processes.unstoppable(survey(child.pid)))
        with fifo.open():
            pass
        wait_for(lambda: (process.stat_fields(child.pid) or "D")[0] == "S", 10, "a process that goes on")
        assert not list(processes.unstoppable(survey(child.pid)))
        child.communicate()


def test_what_waits_for_a_moment(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    with subprocess.Popen([sys.executable, "-c", WAITS, fifo], stdin=subprocess.PIPE) as child:
        wait_for(lambda: _waits(child.pid, fifo), 10, "a process that waits")
        opener = threading.Timer(0.2, fifo.read_bytes)
        opener.start()
        assert not list(processes.unstoppable(survey(child.pid)))
        child.communicate()


def test_of_threads_each_is_looked_at() -> None:
    assert processes._threads(Process(1 << 30)) == []
    waits = threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    assert len(processes._threads(Process(os.getpid()))) > 1
    assert not list(processes.unstoppable(survey(os.getpid())))
    waits.set()


@pytest.mark.parametrize(("policy", "refused"), [(os.SCHED_RR | os.SCHED_RESET_ON_FORK, False), (6, True), (7, True)])
def test_scheduling_policies(monkeypatch: pytest.MonkeyPatch, policy: int, refused: bool) -> None:
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: policy)
    said = [str(fault) for fault in processes.schedulers(survey(os.getpid()))]
    assert (
        f"process {os.getpid()} has the scheduling policy {policy}, with which CRIU restores nothing" in said
    ) == refused


def test_personalities() -> None:
    """A child that has the init's is not told of."""
    with subprocess.Popen(["setarch", "-R", "sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
        try:
            wait_for(lambda: Path(f"/proc/{one.pid}/comm").read_text() == "sleep\n", 10, "the program that it starts")
            here = survey(os.getpid())
            said = [str(fault) for fault in processes.personalities(here)]
            own = process.personality(os.getpid())
            assert process.personality(one.pid) == own | 0x40000
            whose = f"and comes back with that of the init, {own:#x}"
            assert said == [f"a process (sleep) has the personality {own | 0x40000:#x}, {whose}"]
        finally:
            one.kill()
            other.kill()


def process_of(status: str = "Name:\tworker\n", **known: object) -> Process:
    """A process that is known already."""
    made = Process(7)
    made.status = Status(status)
    for name, value in {"descriptors": [], "mapped": set(), "mapped_oddly": set(), "places": {}, **known}.items():
        setattr(made, name, value)
    return made


def survey_of(*found: Process, node: str = "", **known: object) -> Survey:
    """A survey of a job's container with these processes."""
    bundle = Bundle("/b", {"root": {"path": "rootfs"}, "process": {"env": ["SLURM_JOB_ID=12"]}, "mounts": []})
    made = Survey(7, bundle)
    made.processes, made.leaders = list(found), list(found)
    made.node = mounts.parse(node)
    for name, value in known.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(("code", "refused"), [("21", True), ("22", True), ("19", False), ("20", False), ("0", False)])
def test_what_has_stopped_it(code: str, refused: bool) -> None:
    stopped = process_of("Name:\tx\nState:\tT (stopped)\n", stat=["T", *["0"] * 48, code])
    assert len(list(processes.stopped(survey_of(stopped)))) == refused


def test_an_init_with_another_root() -> None:
    (fault,) = processes.chrooted(survey_of(process_of(places={"root": "/sub"})))
    assert "has changed its root directory to /sub" in str(fault)
    assert not list(processes.chrooted(survey_of(process_of(places={"root": "/"}))))


PRIVATE = """
22 1 0:20 / / rw - ext4 /dev/sda1 rw
23 22 0:20 /var/job_container/12/.12/_tmp /tmp rw - ext4 /dev/sda1 rw
24 22 0:30 / /dev/shm rw,relatime - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "job", "place"),
    [
        ("/t/file", "12", "/tmp"),
        ("/t/file (deleted)", "12", "/tmp"),
        ("/m/x", "12", "/dev/shm"),
        ("/t/file", "13", ""),
        ("/m/x", "13", ""),
        ("/other", "12", ""),
    ],
)
def test_a_directory_of_the_jobs_own(path: str, job: str, place: str) -> None:
    inside = mounts.parse("1 0 0:20 / / rw - ext4 x rw\n2 1 0:20 /x /t rw - ext4 x rw\n3 1 0:30 / /m rw - tmpfs x rw")
    user = process_of(mapped={("0:20", path)})
    found = survey_of(user, node=PRIVATE, mounts=inside, inner={}, binds={"/t": "/tmp", "/m": "/dev/shm"})
    found.bundle.config["process"]["env"] = [f"SLURM_JOB_ID={job}"]
    said = [str(fault) for fault in files.private(found)]
    assert [f"in the node's {place}, which is this job's alone" in line for line in said] == ([True] if place else [])


def test_a_large_deleted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        found = survey(os.getpid())
        found.processes = [Process(os.getpid())]
        assert not list(files.large(found))
        monkeypatch.setattr(criu, "GHOST_LIMIT", 1 << 19)
        (fault,) = files.large(found)
        assert "open, which was deleted and has 0.0 GiB" in str(fault)


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("anon_inode:[eventpoll]", ""),
        ("anon_inode:inotify", ""),
        ("anon_inode:[perf_event]", "performance counters (perf_event_open)"),
        ("anon_inode:[new]", "[new]"),
        ("/dmabuf:", "a buffer of a device (dma-buf)"),
        ("/dev/null", ""),
        ("/dev/gone", ""),
        ("pipe:[1]", ""),
    ],
)
def test_what_criu_knows(link: str, words: str) -> None:
    found: Any = SimpleNamespace(link=link, path=link)
    assert descriptors._unknown(found) == words


@pytest.mark.parametrize(
    ("number", "mode", "words"),
    [
        ((10, 229), stat.S_IFCHR, "FUSE, /dev/x (10:229)"),
        ((195, 0), stat.S_IFCHR, "a device, /dev/x (195:0)"),
        ((136, 3), stat.S_IFCHR, ""),
        ((10, 200), stat.S_IFCHR, ""),
        ((8, 0), stat.S_IFBLK, "the block device /dev/x"),
        ((0, 0), stat.S_IFREG, ""),
    ],
)
def test_which_devices_criu_knows(
    monkeypatch: pytest.MonkeyPatch, number: tuple[int, int], mode: int, words: str
) -> None:
    monkeypatch.setattr(os, "stat", lambda _: SimpleNamespace(st_mode=mode, st_rdev=os.makedev(*number)))
    assert descriptors._device("/dev/x", "/dev/x") == words


def test_files_of_nobody_belong_to_the_containers_root(tmp_path: Path) -> None:
    """In images, the owner that CRIU has no number for; those that it has one for stay."""
    none, root = b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x00"
    head, rest = b"\0" * 12, b"\x18\xa4\x83\x02" + none
    ghosts = {"1": (b"\0", none, root), "2": (none, none, root), "3": (b"\xe8\x07", b"\0", b"\0")}
    for name, (user, group, _) in ghosts.items():
        (tmp_path / f"ghost-file-{name}.img").write_bytes(head + b"\x08" + user + b"\x10" + group + rest)
    (tmp_path / "files.img").write_bytes(head + b"\x08\xed\x83\x03\x10" + none + b"\x18" + none + rest)
    criu_images.own_deleted(str(tmp_path), 0, 0)
    for name, (user, _, group) in ghosts.items():
        owner = root if user == none else user
        found = (tmp_path / f"ghost-file-{name}.img").read_bytes()
        assert found == head + b"\x08" + owner + b"\x10" + group + rest
    assert (tmp_path / "files.img").read_bytes() == head + b"\x08\xed\x83\x03\x10" + root + b"\x18" + root + rest


def test_epoll_sets() -> None:
    """A file that was closed is looked for by another number; it is named if this process has it no more."""
    here = survey(os.getpid())
    with select.epoll() as poll:
        reader, writer = os.pipe()
        poll.register(reader, select.EPOLLIN)
        copy = os.dup(reader)
        os.close(reader)
        here.processes = [Process(os.getpid())]
        assert not list(descriptors.polled(here))
        with subprocess.Popen(["sleep", "60"], pass_fds=[copy]) as child:
            os.close(copy)
            here.processes = [Process(os.getpid())]
            (fault,) = descriptors.polled(here)
            assert f"(descriptor {poll.fileno()}) that it has closed" in str(fault)
            here.processes = [Process(os.getpid()), Process(os.getpid())]  # as a child that has the set, too
            assert len(list(descriptors.polled(here))) == 1
            child.kill()
        here.processes = [Process(os.getpid())]
        assert not list(descriptors.polled(here))
        os.close(writer)


def test_a_zombie_has_no_personality() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert list(processes.personalities(survey(os.getpid()))) == []


@pytest.mark.parametrize("ends", [False, True])
def test_what_ends_has_left_its_control_group(monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    """It is in the root of each hierarchy of version 1 then, though it was not made to be there."""
    with subprocess.Popen(["sleep", "60"]) as child:
        found = process_of("Name:\tsleep\nState:\tS (sleeping)\n")
        found.path = f"/proc/{child.pid}"
        if ends:
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        monkeypatch.setattr(processes, "read", lambda path: "/" if str(child.pid) in path else "/container")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        here = survey_of(Process(os.getpid()), found)
        assert len(list(processes.grouped(here))) == (not ends)
        child.kill()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_the_first_message(kind: socket.SocketKind) -> None:
    """An end is none; a program's place to look ahead stays as it is."""
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    with one, other:
        found = Descriptor(Process(os.getpid()), str(one.fileno()))
        assert first_message(found) is None
        for text in (b"", b"x"):
            other.send(text)
            assert first_message(found) == (len(text), "")
            assert first_message(found) == (len(text), "")
            one.recv(9)
        other.send(b"x")
        one.setsockopt(socket.SOL_SOCKET, PEEK_OFF, 0)
        assert first_message(found) is None
        one.setsockopt(socket.SOL_SOCKET, PEEK_OFF, -1)
        if kind == socket.SOCK_DGRAM:
            other.bind("\0" + f"test-{os.getpid()}")
            other.send(b"y")
            one.recv(9)
            assert first_message(found) == (1, f"@test-{os.getpid()}")
        else:
            other.close()
            assert first_message(found) is None


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, None])
def test_what_has_no_messages(kind: socket.SocketKind | None) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, kind or socket.SOCK_DGRAM)
    with one, other:
        other.send(b"x")
        found = Descriptor(Process(os.getpid()), str(one.fileno()))
        if kind is None:
            one.close()
        assert first_message(found) is None
