"""What is said of checkpoints that are taken beside a running program."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oci_criu_shim.checkpoints import committed
from oci_criu_shim.container.record import ANSWER, DONE
from oci_criu_shim.dump import client, rootfs
from oci_criu_shim.dump.dump import Dump
from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.host import criu, process
from oci_criu_shim.task import schedule, take
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.policy import FAILED, LOST, NO_REASON, TAKEN, Policy
from oci_criu_shim.task.preempt import Preemption
from oci_criu_shim.task.take import Taker
from tests.unit.test_ckpt import made
from tests.unit.test_policy import make
from tests.unit.test_schema import full_manifest
from tests.unit.test_slurm import seen

__all__ = ["make"]
Make = Callable[..., Policy]
Capture = pytest.CaptureFixture[str]
WORDS = "CRIU could not dump one: Error"


@pytest.fixture
def init() -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(["sleep", "60"])
    yield program
    program.kill()
    program.wait()


@pytest.fixture
def policy(make: Make, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> Policy:
    made = make("preempt,interval:1h")
    made.container.save(made.container.load() | {"init": process.identity(init.pid)})

    def no_helper(_: object) -> None:
        raise ShimError("there is none")

    monkeypatch.setattr(client, "connect", no_helper)
    monkeypatch.setattr(Preemption, "_why", lambda *_: schedule.PREEMPT)
    return made


def run_on(policy: Policy, reason: str) -> int:
    return Taker(policy).run_on(reason)


def go(policy: Policy, reason: str) -> int:
    return Preemption(policy).go(reason)


def directory(policy: Policy) -> Path:
    """Where checkpoints can be made."""
    path = Path(policy.store.directory)
    path.mkdir()
    return path


def fails(monkeypatch: pytest.MonkeyPatch, killed: int | None = None, kind: type[ShimError] = ShimError) -> None:
    """Have dumps fail; the process `killed` ends meanwhile."""

    monkeypatch.setattr("oci_criu_shim.dump.chain.tracked", lambda _: (False, False))

    def dump(*_: object) -> None:
        if killed is not None:
            os.kill(killed, signal.SIGKILL)
        raise kind(WORDS)

    monkeypatch.setattr(take, "Dump", dump)


@pytest.mark.parametrize("begin", [run_on, go])
def test_what_failed_is_told(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capfd: Capture, begin: Callable[[Policy, str], int]
) -> None:
    fails(monkeypatch)
    monkeypatch.setattr(Departure, "mark", lambda *_: None)
    assert begin(policy, schedule.INTERVAL) == FAILED
    said = f"oci-criu-shim: error: job 7 step batch task 0 could not be checkpointed and runs on: {WORDS}\n"
    first, *others = capfd.readouterr().err.splitlines(keepends=True)
    assert first == said
    foretold = ["has no checkpoint: if its job is requeued, it fails" in other for other in others]
    assert foretold == [True] * (begin is go)


@pytest.mark.parametrize(("futile", "tries"), [(True, {"newest": 2, "tries": 3}), (False, {"newest": 1, "tries": 3})])
def test_a_job_that_gets_no_further_is_not_requeued_for_ever(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capfd: Capture, futile: bool, tries: dict[str, int]
) -> None:
    path = Path(policy.store.path)
    (path / "1").mkdir(parents=True)
    (path / "tries.json").write_text('{"newest": 1, "tries": 3}')
    monkeypatch.setattr(Preemption, "_why", lambda *_: schedule.TIMEOUT)
    monkeypatch.setattr(Departure, "mark", lambda *_: None)
    monkeypatch.setattr(policy.schedule, "is_futile", lambda: futile)
    monkeypatch.setattr(Taker, "dump", lambda *_: (path / "2").mkdir())
    assert go(policy, schedule.TIMEOUT) == TAKEN
    assert json.loads((path / "tries.json").read_text()) == tries
    assert ("hardly ran before its time limit was near" in capfd.readouterr().err) is futile


@pytest.mark.parametrize("begin", [run_on, go])
@pytest.mark.parametrize("verbose", [False, True])
def test_a_program_that_ends_meanwhile_is_no_failure(
    policy: Policy,
    init: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    begin: Callable[[Policy, str], int],
    verbose: bool,
) -> None:
    fails(monkeypatch, init.pid)
    monkeypatch.setattr(take, "ENDING_MS", 60_000)  # the kernel takes its time on a busy machine
    policy.log.verbose = verbose
    assert begin(policy, schedule.INTERVAL) == NO_REASON
    said = f"oci-criu-shim: job 7 step batch task 0 ended while it was checkpointed: {WORDS}\n"
    assert capfd.readouterr().err == (said if verbose else "")
    assert not Path(policy.container.path(DONE)).exists()


@pytest.mark.parametrize(("again", "why"), [(False, WORDS), (True, take.KILLED)])
def test_what_fails_after_the_commit_leaves_the_checkpoint(
    policy: Policy,
    init: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    again: bool,
    why: str,
) -> None:
    """`again` is a second child, since the first one, which took it, was killed."""
    fails(monkeypatch, init.pid)
    monkeypatch.setattr(take, "ENDING_MS", 60_000)
    marks: list[str] = []
    monkeypatch.setattr(Departure, "mark", lambda _, __, word: marks.append(word))
    path = made(directory(policy), policy.task.key, left_running=False, restarts=0)
    if again:
        init.kill()
        init.wait()
    assert go(policy, schedule.PREEMPT) == TAKEN
    assert marks == ["taken"]
    said = capfd.readouterr().err
    assert said.startswith(f"oci-criu-shim: checkpointed job 7 step batch task 0 to {path} (")
    assert said.endswith(f", but then something failed: {why}\n") and said.count("\n") == 1


class Taken:
    """As Dump.take() returns it; it says when it was begun, too."""

    seconds, begun = 1.0, 0.0

    def __init__(self, path: str) -> None:
        self.checkpoint = committed.read(path)

    def facts(self) -> dict[str, object]:
        return {"path": self.checkpoint.path}

    def describe(self) -> str:
        return "there"


def test_what_can_not_be_removed_fails_no_checkpoint(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def stale(_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/store/1")

    taken = Taken(made(directory(policy), policy.task.key))
    monkeypatch.setattr(Taker, "_take", lambda *_: taken)
    monkeypatch.setattr(policy.store, "keep", stale)
    assert Taker(policy).dump(schedule.PREEMPT) == "there"
    said = "older checkpoints of job 7 step batch task 0 could not be removed: /store/1: Stale file handle"
    assert capfd.readouterr().err == f"oci-criu-shim: {said}\n"


@pytest.mark.parametrize(("packed", "seconds"), [(False, 60), (True, 1)])
def test_checksums_are_part_of_what_a_checkpoint_takes(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, packed: bool, seconds: int
) -> None:
    """Compression is not, which takes no more than there is."""
    taken = Taken(made(directory(policy), policy.task.key))
    if packed:
        taken.checkpoint.manifest["compressed"] = {"checkpoint/core-1.img": {"codec": "zstd", "size": 9, "frame": 9}}
    measured: list[float] = []
    monkeypatch.setattr(Taker, "_take", lambda *_: taken)
    monkeypatch.setattr(time, "monotonic", lambda: 60.0)
    monkeypatch.setattr(policy.estimate, "measured", lambda _, begin, end: measured.append(end - begin))
    Taker(policy).dump(schedule.PREEMPT)
    assert measured == [seconds]


@pytest.mark.parametrize(
    ("criu_says", "said"),
    [
        ("CRIU could not dump c: Error: No space left on device | Error: more", "the disk is full ("),
        ("CRIU could not dump c: Error: Disk quota exceeded", "your disk quota is used up ("),
    ],
)
def test_no_room_is_said_in_one_short_line(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capfd: Capture, criu_says: str, said: str
) -> None:
    """What CRIU says of it is for --debug."""
    Path(policy.store.path).mkdir(parents=True)

    def full(*_: object) -> None:
        raise ShimError(criu_says, criu.FULL)

    monkeypatch.setattr(Taker, "_take", full)
    assert run_on(policy, schedule.INTERVAL) == FAILED
    (line,) = capfd.readouterr().err.splitlines()
    assert f"could not be checkpointed and runs on: {policy.store.directory}: {said}" in line
    assert "; the container has " in line and line.endswith(f"(hint: {take.ROOM})") and "CRIU" not in line


@pytest.mark.parametrize(
    ("number", "file", "line"),
    [
        (errno.ENOSPC, "/a/b", "/a/b: No space left on device (hint: the checkpoint directory is full)"),
        (errno.EDQUOT, None, "Disk quota exceeded (hint: the checkpoint directory is full)"),
        (errno.EIO, None, "Input/output error"),
    ],
)
def test_a_full_disk_in_words(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, number: int, file: str | None, line: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), file)

    monkeypatch.setattr(Taker, "_take", refuse)
    with pytest.raises(ShimError) as caught:
        Taker(policy).dump(schedule.PREEMPT)
    assert caught.value.line().startswith(line)


def test_a_container_that_ended_right_after_the_commit(
    monkeypatch: pytest.MonkeyPatch, init: subprocess.Popen[bytes]
) -> None:
    """There is nothing to be ended any more."""
    dump = object.__new__(Dump)
    dump.pid, dump.pidfd, dump.options = init.pid, os.pidfd_open(init.pid), {"leave_running": False}
    dump.holds_tcp = dump.has_tcp = False
    one = committed.Checkpoint("/1", full_manifest(frozen_seconds=0.5))

    def ask(_: object, __: object, ___: object, commit: Callable[[object], None], *____: object) -> None:
        commit({})
        init.kill()
        init.wait()
        raise Killed("the worker is gone")

    monkeypatch.setattr(client, "dump", ask)
    monkeypatch.setattr(dump, "_commit", lambda *_: one)
    monkeypatch.setattr(rootfs, "take", lambda *_: None)
    dump.container = dump.bundle = SimpleNamespace(namespaces={}, own_places=[])  # type: ignore[assignment]
    dump.record = {}
    stage: Any = SimpleNamespace(images="", work=None, codec=None, target=None)
    connection: Any = nullcontext()
    assert dump._checkpoint(stage, connection, {}, None, None) == (one, 0.5)


@pytest.mark.parametrize("begin", [run_on, go])
def test_a_program_that_ends_with_who_was_at_work_in_it(
    policy: Policy,
    init: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    begin: Callable[[Policy, str], int],
) -> None:
    fails(monkeypatch, init.pid, Killed)
    monkeypatch.setattr(take, "ENDING_MS", 60_000)
    assert begin(policy, schedule.INTERVAL) == LOST
    said = "job 7 step batch task 0 ended while it was checkpointed, since what did that was killed"
    assert capfd.readouterr().err == f"oci-criu-shim: error: {said}: {WORDS}\n"


def test_who_asked_is_told_where_it_is(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def dump(self: take.Taker, _: str) -> str:
        self.facts = {"path": "/c/7/batch.0/3", "seq": 3}
        return "/c/7/batch.0/3"

    monkeypatch.setattr(take.Taker, "dump", dump)
    assert run_on(policy, schedule.REQUEST) == TAKEN
    _, facts = Path(policy.container.path(ANSWER)).read_text().splitlines()
    assert json.loads(facts) == {"path": "/c/7/batch.0/3", "seq": 3}


def test_who_asked_is_told_that_it_ended(
    policy: Policy, init: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    init.kill()
    init.wait()
    assert run_on(policy, schedule.REQUEST) == NO_REASON
    text = Path(policy.container.path(ANSWER)).read_text()
    assert text == f"{NO_REASON} job 7 step batch task 0 ended while it was checkpointed"


@pytest.mark.parametrize(("when", "noted"), [("preempt,timeout", "2000000000 0"), ("preempt", None)])
def test_a_time_limit_is_noted_without_the_grace_time(
    make: Make, monkeypatch: pytest.MonkeyPatch, when: str, noted: str | None
) -> None:
    """slurmdbd may tell that of a QOS to nobody; alone, it is asked for again."""

    def silent(*_: str) -> int:
        raise ShimError("sacctmgr show qos: Connection refused")

    monkeypatch.setattr("oci_criu_shim.slurm.controller.grace_time", silent)
    monkeypatch.setattr("oci_criu_shim.slurm.controller.job", lambda _: seen(end_time=2000000000))
    made = make(when)
    assert Taker(made).look() == NO_REASON
    path = Path(made.container.path("limits"))
    assert (path.read_text() if path.exists() else None) == noted


def test_what_a_layer_is_without(policy: Policy, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    done = SimpleNamespace(changes=[], left_out=3, take=lambda *_: "taken")
    monkeypatch.setattr(take, "Dump", lambda *_: done)
    connection: Any = object()
    assert str(Taker(policy)._take(1, schedule.PREEMPT, connection)) == "taken"
    assert "job 7 step batch task 0 is without 3 files of the root file system" in capfd.readouterr().err
