"""What the worker tells the helper of a dump, and who else hears of it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.privileged import dump, report, target, worker
from tests.harness.cluster.settings import REPOSITORY

GOOD = {"op": "dump", "leave_running": True}
JOB = (7, "freezer:/slurm/job_7")
IMAGES = {"pages-1.img": 4096, "core-1.img": 7}


def test_the_same_numbers_as_the_helpers() -> None:
    text = (REPOSITORY / "spank/protocol.h").read_text()
    words = [line.strip().split(",")[0] for line in text.splitlines() if line.startswith("\tREPORT_")]
    assert words[:6] == [f"REPORT_{name}" for name in ("BEGUN", "DONE", "SETUP", "REFUSED", "CRIU", "UNCOMMITTED")]
    assert f"enum {{ REPORT_FD = {report.DESCRIPTOR}, REPORT_VERSION = {report.VERSION} }};" in text


class Ends:
    """Who asks for a dump: what it sends, and what becomes of that."""

    def __init__(self, directory: Path) -> None:
        self.sent: list[dict[str, object]] = []
        self.answers: list[dict[str, object]] = [GOOD]
        self.directory = self.pidfd = os.open(directory, os.O_RDONLY)
        self.fails_after: str | None = None

    def send(self, message: dict[str, object]) -> None:
        self.sent.append(message)

    def receive(self) -> tuple[dict[str, object], list[int]]:
        if not self.answers:
            raise ShimError("the other side ended without an answer")
        return self.answers.pop(0), [self.pidfd, self.directory]

    def dump(self, *arguments: object) -> int:
        if self.fails_after == "nothing":
            raise ShimError("CRIU could not")
        asker: Any = arguments[-1]
        if not asker.commit({"frozen_ns": 0}) or self.fails_after == "commit":
            raise ShimError("CRIU could not")
        return 7


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ends:
    for name, size in IMAGES.items():
        (tmp_path / name).write_bytes(bytes(size))
    made = Ends(tmp_path)
    monkeypatch.setattr(dump, "dump", made.dump)
    monkeypatch.setattr(target, "Target", lambda *_: None)
    return made


def reports(ends: Ends, ready: bool = True) -> list[tuple[int, int, int]]:
    """(outcome, bytes, nanoseconds) of each report about a dump; the descriptor is a pipe."""
    reader, writer = os.pipe()
    told = report.Report(False)
    told.wanted = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "DESCRIPTOR", writer)
        try:
            if ready:
                worker._serve(ends, JOB, told, None)  # type: ignore[arg-type]
            else:
                patch.setattr(dump, "Service", unready)
                worker.serve(ends, JOB, told)  # type: ignore[arg-type]
            told.end(True)
        except ShimError:
            told.end(False)
    os.close(writer)
    with open(reader, "rb") as stream:
        data = stream.read()
    records = list(struct.iter_unpack("=IIQQ", data))
    assert {version for version, *_ in records} <= {report.VERSION}
    return [(outcome, size, nanoseconds) for _, outcome, size, nanoseconds in records]


def unready() -> None:
    raise ShimError("criu is not installed")


def test_done(ends: Ends) -> None:
    ends.answers += [{"op": "commit"}]
    begun, done = reports(ends)
    assert begun == (report.BEGUN, 0, 0)
    assert done[:2] == (report.DONE, sum(IMAGES.values()))
    assert done[2] > 0


@pytest.mark.parametrize(
    ("answers", "fails_after", "cause"),
    [
        ([GOOD], "nothing", report.CRIU),
        ([GOOD, {"op": "commit"}], "commit", report.CRIU),
        ([GOOD, {"op": "abort"}], None, report.UNCOMMITTED),
        ([GOOD], None, report.UNCOMMITTED),
        ([{"op": "fly"}], None, report.REFUSED),
    ],
)
def test_causes(ends: Ends, answers: list[dict[str, object]], fails_after: str | None, cause: int) -> None:
    ends.answers = list(answers)
    ends.fails_after = fails_after
    assert [outcome for outcome, *_ in reports(ends)] == [report.BEGUN, cause]


@pytest.mark.parametrize(("ended", "cause"), [(True, report.CRIU), (False, report.REFUSED)])
def test_not_of_the_job(ends: Ends, monkeypatch: pytest.MonkeyPatch, ended: bool, cause: int) -> None:
    """A process that has ended may have been."""

    def none(*_: object) -> None:
        raise ShimError("the process is not one of job 7")

    monkeypatch.setattr(target, "Target", none)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        ends.pidfd = os.pidfd_open(process.pid)
        if ended:
            process.communicate()
        assert [outcome for outcome, *_ in reports(ends)] == [report.BEGUN, cause]
    os.close(ends.pidfd)


def test_no_criu(ends: Ends) -> None:
    assert [outcome for outcome, *_ in reports(ends, ready=False)] == [report.BEGUN, report.SETUP]


@pytest.mark.parametrize("ready", [True, False])
def test_nothing_was_asked(ends: Ends, ready: bool) -> None:
    ends.answers = []
    assert reports(ends, ready) == []


PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from oci_criu_shim.host import process
from oci_criu_shim.privileged.report import Report

reader, writer = os.pipe()
os.dup2(writer, 4)
os.set_inheritable(4, True)  # as the helper leaves it
print(os.get_inheritable(4))
told = Report(True)
process.wait(process.spawn(["/bin/ls", "/proc/self/fd"], process.ENVIRONMENT, {1: 1}))
told.begin()
print(len(os.read(reader, 100)))
"""


def test_who_inherits_it() -> None:
    source = str(REPOSITORY / "src")
    done = subprocess.run([sys.executable, "-u", "-c", PROGRAM, source], capture_output=True, text=True, check=True)
    first, *descriptors, last = done.stdout.split()
    assert (first, last) == ("True", "24")
    assert descriptors == ["0", "1", "2", "3"]  # the last is ls's own
