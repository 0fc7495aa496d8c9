"""Checkpoints that wait for their turn: with real locks, of other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux, mounts, process
from oci_criu_shim.supervisor.attempts import Attempts
from oci_criu_shim.task import own_steps, pace, schedule
from oci_criu_shim.task.policy import NO_REASON, TAKEN, Policy
from oci_criu_shim.task.preempt import Preemption
from oci_criu_shim.task.take import Taker
from tests.harness.cluster import wait_for
from tests.unit.test_imports import reached
from tests.unit.test_policy import Make, make

__all__ = ["make"]
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
SOON = 0.02
LATER = time.time() + 1e6
"""An end of the job that no test lives to see."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files to wait for."""
    directory = tmp_path / "pace"
    directory.mkdir()
    made = [directory / name for name in ("1", "2")]
    for path in made:
        path.touch(0o666)
    return made


@pytest.fixture
def reaped(monkeypatch: Patch) -> Iterator[None]:
    """Have whoever locks a file waited for at the test's end. The process that takes a checkpoint ends itself then."""
    real, pids = process.fork, list[int]()

    def fork(work: Callable[[], int]) -> int:
        pids.append(real(work))
        return pids[-1]

    monkeypatch.setattr(process, "fork", fork)
    yield
    for pid in pids:
        with suppress(ChildProcessError):
            process.wait(pid)


@pytest.fixture
def policy(make: Make, files: list[Path], reaped: None, monkeypatch: Patch) -> Policy:
    """One that is asked often, about a checkpoint that takes a second."""
    monkeypatch.setattr(linux, "end_with_parent", lambda: None)
    monkeypatch.setattr(mounts, "own", lambda _: "")
    monkeypatch.setattr(pace, "LOOK_SECONDS", SOON)
    monkeypatch.setattr(pace, "LONGEST", SOON)
    monkeypatch.setattr(own_steps, "are_there", lambda *_: False)
    made = make("preempt,interval:1h", **{"pace-dir": str(files[0].parent)})
    made.estimate.seconds = lambda: 1.0  # type: ignore[method-assign]
    return made


@contextmanager
def held(*paths: Path) -> Iterator[int]:
    """Have another process lock files in the block; yield its pid."""
    reader, writer = os.pipe()

    def hold() -> int:
        assert all(pace.lock(str(path)) is not None for path in paths)
        os.write(writer, b"locked")
        signal.pause()
        return 0

    pid = process.fork(hold)
    os.close(writer)
    with open(reader, "rb") as stream:
        assert stream.read(6) == b"locked"
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        process.wait(pid)


def free(paths: list[Path]) -> list[Path]:
    """Those that can be locked now."""
    descriptors = {path: pace.lock(str(path)) for path in paths}
    found = [path for path, descriptor in descriptors.items() if descriptor is not None]
    for path in found:
        os.close(descriptors[path] or -1)
    return found


def frees(policy: Policy, action: Callable[[], object]) -> None:
    """Do something as soon as it is said that a checkpoint waits."""
    said = policy.log.event

    def event(text: str, kind: str = "", **facts: object) -> None:
        said(text, kind, **facts)
        if "waits for its turn" in text:
            action()

    policy.log.event = event  # type: ignore[method-assign]


def test_without_the_setting_nothing_is_imported(make: Make, monkeypatch: Patch) -> None:
    modules: set[str] = set()
    for name in ("task.take", "task.preempt", "supervisor.launch"):
        reached(name, modules)
    assert "task.take" in modules and "task.pace" not in modules
    monkeypatch.setattr(pace, "turn", None)
    made = make("preempt")
    with Taker(made).turn(schedule.PREEMPT) as is_due:
        assert is_due


@pytest.mark.parametrize("reason", [schedule.REQUEST, schedule.SIGNAL])
def test_who_is_waited_for_does_not_wait(policy: Policy, files: list[Path], reason: str) -> None:
    with held(*files), Taker(policy).turn(reason) as is_due:
        assert is_due


@pytest.mark.parametrize("reason", [schedule.PREEMPT, schedule.TIMEOUT])
def test_a_free_file_is_locked_until_the_commit(policy: Policy, files: list[Path], capfd: Capture, reason: str) -> None:
    taker = Taker(policy)
    taker.end = LATER
    with taker.turn(reason) as is_due:
        assert is_due and len(free(files)) == 1
        policy.store.on_commit()
        wait_for(lambda: free(files) == files, 10, "both files")
    assert "turn" not in capfd.readouterr().err


def test_it_is_free_when_that_fails(policy: Policy, files: list[Path]) -> None:
    taker = Taker(policy)
    taker.end = LATER
    with pytest.raises(ShimError), taker.turn(schedule.PREEMPT):
        raise ShimError("no dump")
    wait_for(lambda: free(files) == files, 10, "both files")


def test_one_that_is_killed_frees_its_file(policy: Policy, files: list[Path], capfd: Capture) -> None:
    with held(files[0]), held(files[1]) as pid:
        frees(policy, lambda: os.kill(pid, signal.SIGKILL))
        with pace.turn(policy, schedule.PREEMPT, LATER) as found:
            assert found.waited > 0 and free(files) == []
    said = capfd.readouterr().err
    assert "the checkpoint of job 7 step batch task 0 waits for its turn, for 5 s at most" in said
    assert "without" not in said and said.count("\n") == 1


def test_nobody_waits_longer_than_the_job_has(policy: Policy, files: list[Path], capfd: Capture) -> None:
    end = time.time() + pace.MARGIN + pace.SPARE_SECONDS + 10 * SOON
    with held(*files), pace.turn(policy, schedule.PREEMPT, end) as found:
        assert not found.is_overtaken and free(files) == []
    assert "is written without its turn, after 0 s\n" in capfd.readouterr().err


@pytest.mark.parametrize("end", [0, 1.0])
def test_without_time_or_with_an_unknown_end(policy: Policy, monkeypatch: Patch, capfd: Capture, end: float) -> None:
    monkeypatch.setattr(process, "fork", None)
    with pace.turn(policy, schedule.PREEMPT, end and time.time() + end) as found:
        assert not found.waited
    assert capfd.readouterr().err == ""


def test_on_a_file_system_of_the_nodes_own(policy: Policy, monkeypatch: Patch) -> None:
    monkeypatch.setattr(mounts, "own", lambda _: "ext4")
    monkeypatch.setattr(process, "fork", None)
    with pace.turn(policy, schedule.PREEMPT, LATER) as found:
        assert not found.waited


def test_a_server_that_does_not_answer(policy: Policy, monkeypatch: Patch, capfd: Capture) -> None:
    monkeypatch.setattr(pace, "lock", lambda _: time.sleep(600))
    with pace.turn(policy, schedule.PREEMPT, time.time() + pace.MARGIN + pace.SPARE_SECONDS + 10 * SOON):
        pass
    assert "is written without its turn" in capfd.readouterr().err


def test_a_program_that_ends_meanwhile(policy: Policy, files: list[Path], monkeypatch: Patch, capfd: Capture) -> None:
    with held(*files):
        frees(policy, lambda: monkeypatch.setattr(type(policy.container), "alive", lambda *_: None))
        with pace.turn(policy, schedule.PREEMPT, LATER):
            pass
    assert "without its turn" not in capfd.readouterr().err


def nothing(files: list[Path]) -> None:
    files[0].parent.rename(files[0].parent.with_name("elsewhere"))


def empty(files: list[Path]) -> None:
    for path in files:
        path.unlink()


def no_plain_files(files: list[Path]) -> None:
    empty(files)
    files[0].symlink_to("/dev/null")
    files[1].mkdir()
    files[0].with_name(".nfs1").touch()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(nothing, "No such file or directory"), (empty, "no files in it"), (no_plain_files, "no files in it")],
)
@pytest.mark.parametrize("reason", [schedule.PREEMPT, schedule.INTERVAL])
def test_a_directory_that_is_of_no_use(
    policy: Policy, files: list[Path], capfd: Capture, spoil: Callable[[list[Path]], None], why: str, reason: str
) -> None:
    spoil(files)
    policy.schedule.spare = lambda: 100.0  # type: ignore[method-assign]
    with pace.turn(policy, reason, LATER) as found:
        assert not found.is_overtaken
    (line,) = capfd.readouterr().err.splitlines()
    assert "waits for no others: " in line and why in line and line.endswith("`oci-criu-shim doctor` says more)")


def test_nobody_follows_a_link_or_waits_for_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        pace.lock(str(tmp_path / "link"))
    with pytest.raises(OSError, match="not a plain file"):
        pace.lock(str(tmp_path / "pipe"))
    assert pace.lock(str(tmp_path / "file")) is not None
    assert (tmp_path / "file").read_bytes() == b""


def test_without_another_process_nothing_waits(policy: Policy, monkeypatch: Patch, capfd: Capture) -> None:
    def fork(_: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(process, "fork", fork)
    with pace.turn(policy, schedule.PREEMPT, LATER) as found:
        assert not found.waited
    assert "waits for no others: Resource temporarily unavailable" in capfd.readouterr().err


def test_half_of_the_files_are_for_jobs_that_must_go(policy: Policy, files: list[Path], capfd: Capture) -> None:
    policy.schedule.spare = lambda: 10 * SOON  # type: ignore[method-assign]
    with held(files[0]), pace.turn(policy, schedule.INTERVAL, 0):
        assert free(files) == files[1:]
    assert "is written without its turn" in capfd.readouterr().err
    with held(files[1]), pace.turn(policy, schedule.INTERVAL, 0):
        assert free(files) == []
    assert capfd.readouterr().err == ""


def test_an_interval_lets_a_preemption_go_first(policy: Policy, files: list[Path], monkeypatch: Patch) -> None:
    """And is due again when that was none."""
    attempts = Attempts(policy, policy.log)
    policy.schedule.last -= 3700
    assert policy.due() == schedule.INTERVAL
    policy.begin(schedule.INTERVAL)
    attempts.reasons, attempts.child = [schedule.INTERVAL], 1
    monkeypatch.setattr(Taker, "dump", None)
    with held(*files):
        frees(policy, lambda: attempts.take_signal(signal.SIGTERM))
        assert Taker(policy).run_on(schedule.INTERVAL) == NO_REASON
    assert attempts.reasons == [schedule.INTERVAL, schedule.PREEMPT]
    attempts.ended(NO_REASON)
    assert policy.due() == schedule.INTERVAL
    policy.begin(schedule.INTERVAL)
    with held(files[1]), pace.turn(policy, schedule.INTERVAL, 0) as found:
        assert not found.is_overtaken and free(files) == []


def test_what_was_wanted_before_goes_first(policy: Policy, monkeypatch: Patch) -> None:
    attempts = Attempts(policy, policy.log)
    attempts.wake = float("inf")
    attempts.reasons = [schedule.INTERVAL, schedule.SIGNAL]
    monkeypatch.setattr(process, "fork", lambda _: 1)
    attempts.pursue()
    assert policy.is_hurried


def test_steps_are_not_tried_without_a_pause(make: Make) -> None:
    """A script's own checkpoint is not due as long as it has steps, but they are looked for once an interval."""
    made = make("interval:1h")
    made.schedule.last -= 3700
    assert made.due() == schedule.INTERVAL
    made.begin(schedule.INTERVAL)
    made.done(schedule.INTERVAL, NO_REASON)
    assert made.due() == ""


def test_a_script_that_has_steps_by_then(policy: Policy, monkeypatch: Patch) -> None:
    marks: list[str] = []
    found = [False, True]
    monkeypatch.setattr(own_steps, "are_there", lambda *_: found.pop(0))
    preemption = Preemption(policy)
    monkeypatch.setattr(preemption, "_why", lambda _: schedule.PREEMPT)
    monkeypatch.setattr(preemption.taker, "connect_early", lambda: None)
    monkeypatch.setattr(preemption.departure, "mark", lambda _, word: marks.append(word))
    monkeypatch.setattr(Taker, "dump", None)
    assert preemption.go(schedule.PREEMPT) == TAKEN
    assert (marks, found) == (["taken"], [])


@pytest.mark.parametrize(
    ("cost", "left", "seconds"), [(1, 60, 5), (10, 60, 40), (40, 60, -5), (0.5, 1e9, 2.5), (1, -1e9, -1e9 - 6.5)]
)
def test_how_long_it_waits(cost: float, left: float, seconds: float) -> None:
    assert pace.patience(cost, left) == seconds


def test_short_ones_try_more_often() -> None:
    assert [pace.pause(cost) for cost in (0.5, 4, 100)] == [0.25, 1, 5]
