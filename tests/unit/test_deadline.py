"""What is said of a checkpoint that is not done shortly before its job's end."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from oci_criu_shim.container.record import STAGE_LINK
from oci_criu_shim.host import linux, process
from oci_criu_shim.task import deadline, history, schedule
from oci_criu_shim.task.policy import Policy
from tests.harness.cluster import wait_for
from tests.unit.test_policy import Make, make

__all__ = ["make"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def made_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "end_with_parent", lambda: None)
    monkeypatch.setattr(process, "memory", lambda _: 5 << 30)


def staged(policy: Policy, tmp_path: Path, layer: int) -> None:
    stage = tmp_path / "stage/checkpoint"
    stage.mkdir(parents=True)
    (stage / "pages-1.img").write_bytes(bytes(3 << 20))
    with (stage.parent / "rootfs-diff.tar").open("wb") as stream:
        stream.truncate(layer)
    os.symlink(stage.parent, policy.container.path(f"{STAGE_LINK}{os.getpid()}"))


@pytest.mark.parametrize("layer", [0, 1 << 30])
def test_how_far_it_is(make: Make, tmp_path: Path, capfd: Capture, layer: int) -> None:
    policy = make("preempt")
    policy.log = history.History(policy.log, policy.store.directory, policy.task)
    policy.container.save(policy.container.load() | {"init": process.identity(os.getpid())})
    staged(policy, tmp_path, layer)
    with deadline.watched(policy, schedule.PREEMPT, time.time() + 0.4):
        wait_for(lambda: "batch.0" in history.read(policy.store.directory, 7), 10, "the line")
    said = capfd.readouterr().err
    assert said.startswith("oci-criu-shim: error: the checkpoint of job 7 step batch task 0 is not done: ")
    assert "it has 5.0 GiB of memory; it ends with the job's grace time in 0 s" in said
    assert "then there is no checkpoint to go on from (hint: a longer GraceTime of the site's" in said
    assert re.search(f"{'1.0 GiB' if layer else '3.0 MiB'} are written after [0-9]+ s", said)
    assert ("1.0 GiB of them changes to the root file system" in said) is bool(layer)
    assert ("a bind mount for what it writes to its root file system would help" in said) is bool(layer)
    (event,) = history.read(policy.store.directory, 7)["batch.0"]
    assert event["event"] == "checkpoint-late"
    assert json.dumps(event["reason"])[1:-2] in json.dumps(said)


def test_at_the_time_limit_with_intervals(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make("timeout,interval:1h")
    os.makedirs(f"{policy.store.path}/3")
    monkeypatch.setattr(type(policy.container), "alive", lambda *_: None)
    said = deadline._unfinished(policy, schedule.TIMEOUT, "/nonexistent", 3, 5)
    assert "0 B are written after 3 s; it ends with the job's time limit in 5 s" in said
    assert said.endswith("then it goes on from checkpoint 3 (hint: a larger margin of the site's would help)")


@pytest.mark.parametrize("end", [0, 9e9])
def test_one_that_is_done_says_nothing(make: Make, capfd: Capture, end: float) -> None:
    with deadline.watched(make("preempt"), schedule.PREEMPT, end):
        pass
    assert capfd.readouterr().err == ""


def test_without_another_process_it_is_taken_all_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(process, "fork", fork)
    with deadline.watched(make("preempt"), schedule.PREEMPT, time.time() + 9):
        pass
