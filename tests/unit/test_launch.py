"""Starting and ending what a supervisor looks after."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import Container
from oci_criu_shim.log import Log
from oci_criu_shim.supervisor import launch
from oci_criu_shim.supervisor.launch import Launch
from oci_criu_shim.task.run import TaskRun
from tests.unit.test_schema import full_manifest

INIT = 4711


class Restore:
    """Runs as INIT until it is ended."""

    ended: list[int]

    def __init__(self, plan: Plan, *_: object) -> None:
        self.backend = plan.backend

    def start(self, *_: object) -> int:
        return INIT

    def end(self, pid: int) -> None:
        self.ended.append(pid)


def test_nothing_runs_on_that_nobody_looks_after(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next checkpoint would be restored beside it."""
    Restore.ended = []
    monkeypatch.setattr("oci_criu_shim.restore.restore.Restore", Restore)
    monkeypatch.setattr(launch, "Signals", lambda: None)
    container = Container(str(tmp_path / "run"), "c")
    container.reserve()
    plan = Plan(container, str(bundle_path), {}, [], str(tmp_path / "none/pid"), Log())
    manifest = full_manifest(input="", streams=["", "", ""])
    with pytest.raises(FileNotFoundError):
        Launch(plan)._restore(Checkpoint(str(tmp_path), manifest))
    assert Restore.ended == [INIT]


@pytest.fixture
def made(tmp_path: Path, bundle_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Launch:
    """The batch step of a job that asked for checkpoints."""
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    environment = {"SLURM_JOB_ID": "7", "SLURM_CHECKPOINT": "preempt", "SLURM_CHECKPOINT_DIR": str(store)}
    config["process"]["env"] = [f"{name}={value}" for name, value in environment.items()]
    (bundle_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(launch, "Signals", lambda: None)
    monkeypatch.setattr("oci_criu_shim.task.daily_prune.begin", lambda *_: None)
    container = Container(str(tmp_path / "run"), "one")
    container.reserve()
    return Launch(Plan(container, str(bundle_path), {}, [], None, Log()))


def test_the_watcher_knows_of_it_before_it_begins(made: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job may be preempted while it is being restored."""
    told: list[str] = []

    def over(_: TaskRun) -> int:
        told.append(Path(made.container.path("pid")).read_text())
        return 0

    monkeypatch.setattr(TaskRun, "over", over)
    made.run()
    assert told == [str(os.getpid())]


def test_what_cannot_be_removed_does_not_change_the_exit_status(
    made: Launch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def release(_: Container) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr(TaskRun, "over", lambda _: 7)
    monkeypatch.setattr(Container, "release", release)
    assert made.run() == 7
    assert "container one has ended, and is not all removed: Directory not empty" in capfd.readouterr().err
