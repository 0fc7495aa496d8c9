"""What a supervisor does about signals and limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.record import REQUEST, Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.log import Log
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import estimate, schedule
from oci_criu_shim.task.compress import Compressor
from oci_criu_shim.task.policy import FAILED, NO_REASON, TAKEN, UNKNOWN, Policy

if TYPE_CHECKING:
    from oci_criu_shim.container.record import Record

Make = Callable[..., Policy]
ASKED = "SLURM_CHECKPOINT=preempt"


def record(init: int, supervisor: int, *environment: str) -> Record:
    """What is noted of a container of job 7."""
    known: Record = {"init": process.identity(init), "supervisor": process.identity(supervisor)}
    return {**known, "bundle": "/b", "config": {"process": {"env": ["SLURM_JOB_ID=7", *environment]}}}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(when: str, environment: dict[str, str] | None = None, **settings: object) -> Policy:
        container = Container(str(tmp_path / "run"), "one")
        if not container.exists():
            container.reserve()
        container.save(record(os.getpid(), os.getpid(), ASKED))
        slurms = {"SLURM_JOB_ID": "7", "SLURM_CHECKPOINT": when, "SLURM_JOB_PARTITION": "low"}
        task = Task({**slurms, **(environment or {})})
        known = config.Settings({**config.DEFAULTS, **settings})
        return Policy(container, task, Store(str(tmp_path / "store"), task.key), known, Log())

    return made


@pytest.mark.parametrize(
    ("when", "term", "usr1"),
    [
        ("preempt", [schedule.PREEMPT], [schedule.PREEMPT]),
        ("default", [schedule.PREEMPT], [schedule.PREEMPT]),
        ("timeout", [schedule.PREEMPT], []),
        ("signal:USR1", [], [schedule.SIGNAL]),
        ("preempt,signal:USR1", [schedule.PREEMPT], [schedule.PREEMPT, schedule.SIGNAL]),
        ("interval:1h", [], []),
    ],
)
def test_signals(make: Make, when: str, term: list[str], usr1: list[str]) -> None:
    made = make(when)
    assert (made.at_signal(signal.SIGTERM), made.at_signal(signal.SIGUSR1)) == (term, usr1)
    assert made.at_signal(CHECKPOINT) == [schedule.PREEMPT]


def test_a_signal_to_a_step_is_the_programs(make: Make) -> None:
    """The watcher hears of it, too, if it tells of a preemption."""
    assert make("preempt", {"SLURM_STEP_ID": "0"}).at_signal(signal.SIGUSR1) == []


def test_a_signal_that_was_no_preemption_delays_nothing(make: Make) -> None:
    made = make("preempt,interval:1h", compress="zstd")
    last, started = made.schedule.last, list[bool]()
    made.compressor = SimpleNamespace(stop=lambda: not started, start=lambda: started.append(True))  # type: ignore[assignment]
    for _ in range(2):
        made.begin(schedule.PREEMPT)
        made.done(schedule.PREEMPT, NO_REASON)
    assert (made.schedule.last, started) == (last, [True])


def test_a_request_hides_no_preemption(make: Make) -> None:
    made = make("preempt")
    request = Path(made.container.path(REQUEST))
    request.touch()
    assert made.at_signal(CHECKPOINT) == [schedule.PREEMPT, schedule.REQUEST]
    made.done(schedule.PREEMPT, NO_REASON)
    assert request.exists()
    made.done(schedule.REQUEST, -9)
    assert not request.exists()


def test_the_partitions_default(make: Make) -> None:
    partitions = {"low": {"checkpoint": "timeout"}, "other": {"checkpoint": "none"}}
    made = make("default", partitions=partitions)
    assert made.when.timeout and not made.when.preempt


def test_a_default_that_is_none(make: Make) -> None:
    with pytest.raises(ShimError, match="'often' is no value of --checkpoint"):
        make("default", checkpoint="often")


def test_limits(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    made = make("preempt,timeout")
    made.done(schedule.LOOK, NO_REASON)  # Slurm did not answer
    made.note_limits(2000, 60)
    made.done(schedule.LOOK, NO_REASON)
    assert (made.schedule.end, made.grace) == (2000, 60)
    made.schedule.end = 0
    assert not made.due() and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "tried"), [(TAKEN, True), (FAILED, True), (1, True), (NO_REASON, False), (UNKNOWN, False)]
)
def test_a_time_limit_counts_as_tried(make: Make, status: int, tried: bool) -> None:
    """Not where Slurm did not answer, or had another limit meanwhile."""
    made = make("timeout")
    made.schedule.end = 2000
    made.done(schedule.TIMEOUT, status)
    assert (made.schedule.tried == 2000) is tried


def test_longer_than_the_interval_is_said_once(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    made = make("interval:2s")
    for seconds in (1, 5, 5):
        made.begin(schedule.INTERVAL)
        made.schedule.began -= seconds
        made.done(schedule.INTERVAL, TAKEN)
    said = "a checkpoint of job 7 step batch task 0 took 5.0 s, longer than its interval of 2 s"
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1 and said in printed


def test_too_large_for_the_grace_time_is_said_once(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    made = make("preempt", **{"dump-rate": "1K"})
    made.note_limits(0, 1)
    made.done(schedule.LOOK, NO_REASON)
    made.due()
    made.due()
    assert capfd.readouterr().err.count("a preemption in partition low gives 1 s") == 1
    made.task.memory = 1 << 30
    made.due()
    made.due()
    assert capfd.readouterr().err.count("of up to 1.0 GiB, takes about 1048") == 1


def test_intervals_are_no_advice_where_there_are_some(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    made = make("preempt,interval:1h", **{"dump-rate": "1K"})
    made.note_limits(0, 1)
    made.done(schedule.LOOK, NO_REASON)
    made.due()
    assert capfd.readouterr().err.endswith("a preemption in partition low gives 1 s\n")


@pytest.mark.parametrize("reason", [schedule.PREEMPT, schedule.TIMEOUT, schedule.INTERVAL, schedule.LOOK])
def test_a_checkpoint_has_the_processors_to_itself(make: Make, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """What compresses the one before is ended; a look at Slurm's limits is no reason to."""
    stopped: list[bool] = []
    monkeypatch.setattr(Compressor, "stop", lambda _: stopped.append(True))
    make("preempt").begin(reason)
    assert bool(stopped) == (reason != schedule.LOOK)


@pytest.mark.parametrize(
    ("environment", "nodes"),
    [({}, 1), ({"SLURM_NNODES": "2"}, 2), ({"SLURM_JOB_NUM_NODES": "16", "SLURM_NNODES": "2"}, 16)],
)
def test_a_job_fails_with_any_of_its_nodes(make: Make, environment: dict[str, str], nodes: int) -> None:
    made = make("interval:auto", environment, mtbf="32d")
    assert made.schedule.mtbf == 32 * 86400 / nodes


@pytest.mark.parametrize(
    ("environment", "mebibytes"),
    [
        ({}, 0),
        ({"SLURM_MEM_PER_NODE": "500"}, 500),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "3"}, 1500),
        ({"SLURM_MEM_PER_CPU": "500"}, 0),
    ],
)
def test_memory_of_a_job(environment: dict[str, str], mebibytes: int) -> None:
    assert Task({"SLURM_JOB_ID": "7", **environment}).memory == mebibytes << 20


def test_speed_is_remembered(make: Make) -> None:
    made = make("preempt").estimate
    default = config.Settings(config.DEFAULTS).dump_rate
    assert made.speed().rate == default
    made.measured(1 << 30, 0, 32.5)
    assert made.speed().rate == 32 << 20
    assert make("preempt").estimate.speed().rate == 32 << 20


MEASURED: dict[str, tuple[list[tuple[int, float]], float, float]] = {
    "none": ([], 0.5, 100),
    "one slow and small": ([(16, 9)], 0.5, 100),
    "one slow": ([(64, 64.5)], 0.5, 100),
    "two of three are slow": ([(64, 64.5), (64, 1.14), (128, 128.5)], 0.5, 1),
    "one of three is slow": ([(64, 64.5), (100, 1), (150, 1.5)], 0.5, 150),
    "one that is large": ([(1024, 512.5)], 0.5, 2),
    "any takes long": ([(1, 4), (2, 5), (16, 4.5), (1000, 14.5)], 4.5, 100),
    "any is fast": ([(1, 0.1)] * 9, 0.5, 100),
}


@pytest.mark.parametrize("case", MEASURED)
def test_no_single_slow_checkpoint_counts(case: str) -> None:
    """Sizes and rates in MiB."""
    measured, base, rate = MEASURED[case]
    found = estimate.Speed([(size << 20, seconds) for size, seconds in measured], 100 << 20)
    assert (found.base, found.rate / (1 << 20)) == pytest.approx((base, rate))


def test_the_last_ones_of_each_size_are_kept(make: Make) -> None:
    made = make("preempt").estimate
    for seconds in range(20):
        made.measured(64 << 20, 0, seconds)
        made.measured(1, 0, seconds)
    kept = json.loads(Path(made.path).read_text())
    assert kept == [[1, n] for n in range(11, 20)] + [[64 << 20, n] for n in range(11, 20)]


@pytest.mark.parametrize("text", ["33554432", "{}", "[[1]]", "[[1, null]]", "["])
def test_what_is_no_measurement(make: Make, text: str) -> None:
    """An earlier version wrote a rate."""
    made = make("preempt", **{"dump-rate": "7M"}).estimate
    os.makedirs(os.path.dirname(made.path))
    Path(made.path).write_text(text)
    assert made.speed().rate == 7 << 20
    made.measured(1 << 30, 0, 32.5)
    assert made.speed().rate == 32 << 20


@pytest.mark.parametrize(
    ("begin", "end", "mebibytes"),
    [(7, 9.5, 128), (6, 11, 96), (9.5, 12, 64), (1, 1, 64)],
    ids=["beside it", "half of it", "after it", "before it"],
)
def test_what_was_written_at_the_same_time_counts(make: Make, begin: float, end: float, mebibytes: int) -> None:
    made = make("preempt").estimate
    other = Container(made.container.root, "other")
    other.reserve()
    estimate.Estimate(other, os.path.dirname(made.path), 1).measured(64 << 20, begin, end)
    made.measured(64 << 20, 7, 9.5)
    assert estimate._measured(made.path)[-1] == (mebibytes << 20, 2.5)


def test_all_of_the_jobs_containers_must_be_written(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that nobody asked checkpoints of."""
    made = make("preempt", **{"dump-rate": "1M"}).estimate
    monkeypatch.setattr(process, "memory", lambda init: (3 if init == os.getpid() else 2) << 20)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
        for name, environment in (("second", [ASKED]), ("third", [])):
            other = Container(made.container.root, name)
            other.reserve()
            other.save(record(program.pid, os.getpid(), *environment))
        assert made.seconds() == 5.5
        program.communicate()


def test_memory_is_that_of_all_processes() -> None:
    alone = process.memory(os.getpid())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        held = bytearray(os.urandom(32 << 20))
        os.read(reader, len(held))
        os._exit(0)
    os.close(reader)
    grown = 0
    while grown < alone + (32 << 20):
        grown = process.memory(os.getpid())
    os.close(writer)
    os.waitpid(child, 0)
    assert process.memory(child) == 0
