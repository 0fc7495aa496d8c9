"""Processes by their pids."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess

import pytest

from oci_criu_shim.host import process
from oci_criu_shim.host.signals import Signals


def test_one_that_has_just_ended() -> None:
    """Its identity is asked for when it may have, and that is no error."""
    child = process.fork(lambda: 0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert process.start_time(child) is None
    assert process.identity(child)[0] == child
    assert process.wait(child) == 0
    with pytest.raises(ProcessLookupError):
        process.identity(child)


def test_what_a_program_warns_of_is_not_what_it_says() -> None:
    """However much of it there is."""
    warns = "echo one; head -c 1000000 /dev/zero | tr '\\0' w >&2; echo two; exit 3"
    assert process.output(["/bin/sh", "-c", warns], process.ENVIRONMENT) == (3, "one\ntwo\n", "w" * 1000000)
    with pytest.raises(FileNotFoundError):
        process.output(["/no/program"], process.ENVIRONMENT)


def test_all_that_descend(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends while it is looked at has no descendants."""
    argv = ["sh", "-c", "sh -c 'echo $$; read line; true'; true"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout
        inner = int(program.stdout.readline())
        assert list(process.tree(program.pid)) == [program.pid, inner]
        listdir = os.listdir

        def gone(path: str) -> list[str]:
            if str(inner) in path:
                raise ProcessLookupError
            return listdir(path)

        monkeypatch.setattr(os, "listdir", gone)
        assert list(process.tree(program.pid)) == [program.pid, inner]
        program.communicate()
    assert list(process.tree(inner)) == [inner]


def test_signals_of_a_child_are_not_its_parents() -> None:
    """In a child, since it takes over signals."""

    def signalled() -> int:
        os.kill(os.getpid(), signal.SIGUSR1)
        return 0

    def parent() -> int:
        signals = Signals()
        process.wait(process.fork(signalled))
        return int(set(signals.read()) != {signal.SIGCHLD})

    assert process.wait(process.fork(parent)) == 0


def test_status() -> None:
    found = process.status(os.getpid())
    assert found["NSpid"][0] == str(os.getpid())
    assert found["Uid"] == [str(number) for number in (*os.getresuid(), os.geteuid())]
    assert int(found["RssAnon"][0]) > 0
    child = process.fork(lambda: 0)
    process.wait(child)
    with pytest.raises(ProcessLookupError):
        process.status(child)


def test_who_traces_a_process() -> None:
    def traced() -> int:
        ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
        os.kill(os.getpid(), signal.SIGSTOP)
        return 0

    child = process.fork(traced)
    os.waitpid(child, os.WUNTRACED)
    assert process.tracer(child) == os.getpid()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (process.tracer(child), process.tracer(os.getpid())) == (0, 0)
