"""Whether CRIU gets on: what counts as progress, and for how long there may be none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oci_criu_shim.errors import Stopped
from oci_criu_shim.host import criu, process, progress
from oci_criu_shim.host.progress import Progress
from tests.harness.cluster import wait_for


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def until_stopped(self, watched: Progress) -> int:
        """For how many seconds it may go on; 9999 for ever."""
        for seconds in range(9999):
            if watched.stopped():
                return seconds
            self.now += 1
        return 9999


@pytest.mark.parametrize(("size", "seconds"), [(0, 60), (10 << 30, 162)])
def test_the_time_depends_on_the_size(monkeypatch: pytest.MonkeyPatch, size: int, seconds: int) -> None:
    assert Clock(monkeypatch).until_stopped(Progress(list, size)) == pytest.approx(seconds, abs=2)


def wait_for_size(sizes: progress.Sizes, size: int) -> None:
    wait_for(lambda: sizes.found == {"pages-1.img": size}, 10, "a look")


def test_a_file_that_grows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.001)
    images = os.open(tmp_path, os.O_RDONLY)
    sizes, clock = progress.Sizes(images), Clock(monkeypatch)
    watched = Progress(list, more=lambda: sizes.found)
    for number in range(20):
        (tmp_path / "pages-1.img").write_bytes(bytes(number))
        wait_for_size(sizes, number)
        for _ in range(50):
            assert not watched.stopped()
            clock.now += 0.002
    sizes.stop()
    os.close(images)


def test_a_process_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watched = Progress(lambda: [os.getpid()])
    for _ in range(200):
        with open("/proc/self/stat", "rb") as stream:
            stream.read()
        assert not watched.stopped()
        clock.now += 1


def test_storage_that_does_not_answer_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ["D", *"1111111111111111111"]
    monkeypatch.setattr(process, "stat_fields", lambda _: fields)
    watched = Progress(lambda: [1 << 30])
    assert Clock(monkeypatch).until_stopped(watched) > 4 * progress.LEAST_SECONDS
    assert watched.waiting() == f"process {1 << 30} waits for storage or a device"
    fields[0] = "S"
    assert watched.waiting() == ""


def test_a_suspended_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looked in that time, and CRIU could not get on either."""
    clock = Clock(monkeypatch)
    watched = Progress(list)
    for _ in range(10):
        assert not watched.stopped()
        clock.now += 3600


def test_what_others_take_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watched = Progress(list)
    for _ in range(5):
        clock.until_stopped(watched)
        watched.again()
        assert not watched.stopped()


def test_a_criu_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu, "module", lambda _: None)
    monkeypatch.setattr(criu, "LOOK_MS", 1)
    program = tmp_path / "criu"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(criu, "program", lambda: str(program))
    with open(os.devnull, "w") as log:
        swrk = criu.start({"PATH": os.environ["PATH"]}, log.fileno())
    swrk.progress = Progress(lambda: process.tree(swrk.pid))
    swrk.progress.patience = 0.1
    with pytest.raises(Stopped, match=r"CRIU made no progress for 0 s, and was ended"):
        swrk._receive()
    swrk.close()
    assert process.start_time(swrk.pid) is None


def test_one_that_ignores_the_end_of_the_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu, "module", lambda _: None)
    monkeypatch.setattr(criu, "LET_GO_SECONDS", 0.1)
    pid = process.spawn(["/bin/sleep", "60"], {}, {})
    ours, theirs = socket.socketpair()
    theirs.close()
    criu.Swrk(ours, pid).close()
    assert process.start_time(pid) is None


FAMILY = """
import os, time
from oci_criu_shim.host import linux, process
from oci_criu_shim.restore import restore
linux.become_subreaper()
before = process.spawn(["/bin/sleep", "60"], {}, {})
reader, writer = os.pipe()
def middle():
    os.write(writer, b"%d " % process.spawn(["/bin/sleep", "61"], {}, {}))
    time.sleep(60)
    return 0
others = {before}
child = process.fork(middle)
orphan = int(os.read(reader, 99))
restore._end_all(others)
print(process.start_time(before) is not None, process.start_time(child), process.start_time(orphan))
os.kill(before, 9)
"""


def test_nothing_is_left_of_a_failed_restore() -> None:
    """What a killed CRIU leaves becomes a child of ours."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FAMILY], env=environment, capture_output=True, text=True)
    assert done.stdout == "True None None\n", done.stderr
