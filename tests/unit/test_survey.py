"""What is seen of running processes, and told before anything is frozen."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump.faults import descriptors, processes
from oci_criu_shim.dump.survey import Process, Survey
from oci_criu_shim.host import process
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
        assert found.status == {}


# Its child opens a FIFO before it turns into a program, and its parent waits for that uninterruptibly (vfork(2)).
WAITS = """
import os, sys
os.mkfifo(sys.argv[1])
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, sys.argv[1], os.O_WRONLY, 0)])
os.read(0, 1)
"""


def test_what_can_not_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WAIT_SECONDS", 0.2)
    fifo = tmp_path / "fifo"
    with subprocess.Popen([sys.executable, "-c", WAITS, fifo], stdin=subprocess.PIPE) as child:
        wait_for(lambda: (process.stat_fields(child.pid) or "R")[0] == "D", 10, "a process that waits")
        (fault,) = processes.unstoppable(survey(child.pid))
        assert f"process {child.pid} (python" in str(fault) and "can't be stopped: it waits in the kernel" in str(fault)
        with fifo.open():
            pass
        wait_for(lambda: (process.stat_fields(child.pid) or "D")[0] == "S", 10, "a process that goes on")
        assert not list(processes.unstoppable(survey(child.pid)))
        child.communicate()


def test_what_waits_for_a_moment(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    with subprocess.Popen([sys.executable, "-c", WAITS, fifo], stdin=subprocess.PIPE) as child:
        wait_for(lambda: (process.stat_fields(child.pid) or "R")[0] == "D", 10, "a process that waits")
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
