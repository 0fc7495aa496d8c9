"""Attributes of threads, noted and set again from outside."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from oci_criu_shim.host import cgroups, process, threads

PROGRAM = """
import ctypes, os, sys, threading
def change(slack):
    ctypes.CDLL(None).prctl(29, ctypes.c_ulong(slack))
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
change(70000)
open("/proc/self/coredump_filter", "w").write("0x7f")
def thread():
    change(80000)
    print(threading.get_native_id(), flush=True)
    sys.stdin.read()
threading.Thread(target=thread).start()
"""
# What a process has that is started here: the tests may run under nice(1).
NICE = os.getpriority(os.PRIO_PROCESS, 0)


@pytest.fixture
def child() -> Iterator[tuple[int, int]]:
    """(a process, its second thread), both with attributes of their own."""
    argv = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        yield running.pid, int(running.stdout.readline())
        running.kill()


@pytest.fixture
def other() -> Iterator[int]:
    """A process that has none."""
    with subprocess.Popen(["sleep", "60"]) as running:
        yield running.pid
        running.kill()


def inside(pid: int) -> str:
    return process.status(pid)["NSpid"][-1]


def test_noted_and_set(child: tuple[int, int], other: int) -> None:
    leader, thread = child
    noted = threads.note(leader, 0)
    slack: Any = [{"timer_slack": value} if os.geteuid() == 0 else {} for value in (70000, 80000)]
    expected = {inside(leader): {"nice": 19, "coredump_filter": 0x7F, **slack[0]}, inside(thread): slack[1]}
    assert noted == {number: each for number, each in expected.items() if each}
    assert threads.note(other, 0) == ({inside(other): {"nice": NICE}} if NICE else {})
    found = noted[inside(leader)]
    assert threads.give_back(other, {inside(other): found, "0": found}) == []
    assert threads.note(other, 0) == {inside(other): found}


def test_what_cannot_be_set_is_told(child: tuple[int, int]) -> None:
    found: Any = {"coredump_filter": 1 << 80, "nice": 19}
    number = inside(child[0])
    (line,) = threads.give_back(child[0], {number: found})
    assert line.startswith(f"the core dump filter was {1 << 80}, and can't be set here: ")
    assert line.endswith(f"(in the container, thread {number})")


def test_all_processors_are_not_noted(other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the task, or those of the group."""
    everything = os.sched_getaffinity(0)
    one = {min(everything)}
    os.sched_setaffinity(other, one)
    monkeypatch.setattr(cgroups, "processors", lambda _: everything)
    if everything != one:
        assert threads.note(other, 0)[inside(other)]["processors"] == sorted(one)
    assert "processors" not in threads.note(other, other).get(inside(other), {})
    monkeypatch.setattr(cgroups, "processors", lambda _: one)
    assert "processors" not in threads.note(other, 0).get(inside(other), {})


def test_processors_that_are_not_there(other: int) -> None:
    here = os.sched_getaffinity(other)
    number, first, beyond = inside(other), min(here), max(here) + 1
    noted: Any = {number: {"processors": [first, beyond, beyond + 1]}}
    (line,) = threads.give_back(other, noted)
    assert f"of which this job has {first} here: it runs on {first} (in the container, thread {number})" in line
    assert os.sched_getaffinity(other) == {first}
    (line,) = threads.give_back(other, {number: {"processors": [beyond, beyond + 2]}})
    assert line.startswith(f"bound to processors {beyond},{beyond + 2}, of which this job has none here")
    assert os.sched_getaffinity(other) == {first}


@pytest.mark.parametrize(("numbers", "text"), [({0, 1, 2, 5}, "0-2,5"), ({3}, "3"), ({1, 2}, "1-2"), (set(), "")])
def test_ranges(numbers: set[int], text: str) -> None:
    assert threads._ranges(numbers) == text
    assert cgroups._numbers(text) == numbers


def test_a_zombie_has_none(other: int) -> None:
    os.kill(other, signal.SIGKILL)
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
    assert threads.note(other, 0) == {}
    assert threads.give_back(other, {inside(other): {"coredump_filter": 5}}) != []


def test_a_thread_that_cannot_be_bound(other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: int, _: set[int]) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(thread))

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    first = min(os.sched_getaffinity(other))
    (line,) = threads.give_back(other, {inside(other): {"processors": [first]}})
    assert line.startswith(f"it was bound to processors {first}, and can't be here: Operation not permitted")
