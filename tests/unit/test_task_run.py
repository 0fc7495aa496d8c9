"""What becomes of a task that asked for checkpoints, by its launch: whether it runs, from where, what is noted."""

from __future__ import annotations

import errno
import json
import os
import types
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints import owner
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.store import STARTED
from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import INIT_PID, Container
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.supervisor import launch
from oci_criu_shim.supervisor.launch import Launch
from oci_criu_shim.task import daily_prune, history, run, script_end, where
from oci_criu_shim.task.steps import FINISHED, Step
from tests.unit.test_ckpt import made as checkpoint
from tests.unit.test_slurm import seen

FRESH, RESTORED = 5, 6
"""Exit statuses of a container from its beginning, and from a checkpoint."""


class Dry(Launch):
    """Starts nothing; notes what it would have done."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.did: list[str] = []

    def _note(self, what: str) -> None:
        self.did.append(what)
        Path(self.container.path(INIT_PID)).touch()

    def _create(self) -> int:
        self._note("create")
        return FRESH

    def _restore(self, checkpoint: Checkpoint, *_: object) -> tuple[int, Any]:
        self._note(f"restore {checkpoint.seq}")
        return 0, None

    def _supervise(self, *_: object) -> int:
        return RESTORED

    def _hold(self) -> None:
        self.did.append("hold")

    def _pretend(self) -> None:
        self.did.append("pretend")


class Site:
    """Runs of task 0 of job 7's step 0."""

    def __init__(self, path: Path, bundle: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.bundle = bundle
        self.config = config
        self.runs = 0

    @property
    def store(self) -> Path:
        return self.path / "store/7/0.0"

    def plan(self, **environment: str) -> Plan:
        slurms = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_CHECKPOINT": "preempt", **environment}
        slurms["SLURM_CHECKPOINT_DIR"] = str(self.path / "store")
        self.config["process"]["env"] = [f"{name}={value}" for name, value in slurms.items()]
        (self.bundle / "config.json").write_text(json.dumps(self.config))
        self.runs += 1
        container = Container(str(self.path / "run"), f"c{self.runs}")
        container.reserve()
        return Plan(container, str(self.bundle), {}, [], None, Log())

    def run(self, **environment: str) -> tuple[int, list[str]]:
        """Its exit status, and what was done for it."""
        started = Dry(self.plan(**environment))
        return started.run(), started.did

    def caught(self) -> None:
        """As a run leaves it that was ended by a checkpoint."""
        checkpoint(self.path / "store", "7/0.0")
        (self.store / STARTED).touch()
        (self.store / FINISHED).unlink(missing_ok=True)

    def events(self) -> list[str]:
        return [event["event"] for event in history.read(str(self.path / "store"), 7)["0.0"]]


@pytest.fixture
def site(tmp_path: Path, bundle_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "store").mkdir(mode=0o700)
    monkeypatch.setattr(launch, "Signals", lambda: None)
    monkeypatch.setattr(daily_prune, "begin", lambda *_: None)
    monkeypatch.setattr("oci_criu_shim.config.load", lambda: settings)
    monkeypatch.setattr("oci_criu_shim.host.process.fork", lambda work: 0)
    return Site(tmp_path, bundle_path, config)


settings = config.Settings(config.DEFAULTS)


def restarts(monkeypatch: pytest.MonkeyPatch, answer: int | Exception) -> None:
    def job(_: int, soon: bool = False) -> types.SimpleNamespace:
        if isinstance(answer, Exception):
            raise answer
        return types.SimpleNamespace(restarts=answer, is_expedited=False, fields={"required_nodes": ""})

    monkeypatch.setattr(controller, "job", job)


def test_first_run(site: Site) -> None:
    assert site.run() == (FRESH, ["create"])
    assert os.listdir(site.store) == [FINISHED]
    assert site.events() == ["ended"]


def test_what_had_finished(site: Site) -> None:
    site.run()
    assert site.run(SLURM_RESTART_COUNT="1") == (FRESH, ["pretend"])


def test_what_was_caught_goes_on(site: Site) -> None:
    site.run()
    site.caught()
    assert site.run(SLURM_RESTART_COUNT="1") == (RESTORED, ["hold", "restore 1"])


def test_what_cannot_go_on(site: Site) -> None:
    site.run()
    site.caught()
    os.unlink(site.store / "1/manifest.json")
    with pytest.raises(ShimError, match="could not be restored from any checkpoint"):
        site.run(SLURM_RESTART_COUNT="1")
    assert site.events() == ["ended", "refused", "failed"]


def test_what_a_system_call_refuses(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device", "/place")

    monkeypatch.setattr("oci_criu_shim.checkpoints.store.Store.mark_started", full)
    with pytest.raises(OSError, match="No space left"):
        site.run()
    last = history.read(str(site.path / "store"), 7)["0.0"][-1]
    assert (last["event"], last["reason"]) == ("failed", "/place: No space left on device")


def test_a_step_that_is_not_told_of_restarts_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script has unset SLURM_RESTART_COUNT."""
    site.run()
    restarts(monkeypatch, 1)
    assert site.run() == (FRESH, ["pretend"])
    site.caught()
    assert site.run() == (RESTORED, ["hold", "restore 1"])


def test_an_earlier_job_of_that_number(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is restored when this one is requeued."""
    site.caught()
    restarts(monkeypatch, 0)
    assert site.run() == (FRESH, ["create"])
    assert os.listdir(site.store) == [FINISHED]


def test_whose_it_is_must_be_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.caught()
    restarts(monkeypatch, ShimError("slurmctld does not answer"))
    with pytest.raises(ShimError, match="does not answer"):
        site.run()
    assert sorted(os.listdir(site.store)) == ["1", STARTED]


def test_another_clusters(site: Site) -> None:
    site.run(SLURM_CLUSTER_NAME="red")
    with pytest.raises(ShimError, match="of cluster 'red', and this is 'blue'"):
        site.run(SLURM_CLUSTER_NAME="blue", SLURM_RESTART_COUNT="1")
    assert site.run(SLURM_CLUSTER_NAME="red", SLURM_RESTART_COUNT="1") == (FRESH, ["pretend"])


def test_its_directory_is_made(site: Site) -> None:
    os.rmdir(site.path / "store")
    assert site.run() == (FRESH, ["create"])
    assert (site.path / "store").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_can_not_be_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    path = site.path / "store"
    os.rmdir(path)
    with monkeypatch.context() as changed:
        changed.setattr("os.mkdir", refuse)
        for parents in (True, False):
            with pytest.raises(ShimError, match=f"{path} can't be made: Permission denied") as raised:
                owner.make(str(path), parents)
            assert "--checkpoint-dir" in raised.value.hint
    path.symlink_to("none/there")
    with pytest.raises(ShimError, match="store: No such file or directory") as raised:
        site.run()
    assert raised.value.hint.startswith(f"`mkdir -p {path}`")


@pytest.mark.parametrize("missing", [True, False])
def test_a_node_without_what_the_job_left(site: Site, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    """The directory is not there, or it is another one, and the job's comment says where the first one is."""
    reasons: list[Misfit] = []
    comment = "" if missing else "oci-criu-shim: its checkpoints are on n1, in /tmp/ck"
    monkeypatch.setattr(controller, "job", lambda _, soon=False: seen(comment=comment))
    monkeypatch.setattr(script_end, "wait_for_requeue", lambda _: None)
    if missing:
        os.rmdir(site.path / "store")
        (site.path / "store").symlink_to("none/there")

    def go(root: str, task: Task, log: Log, error: Misfit) -> bool:
        reasons.append(error)
        return True

    monkeypatch.setattr(where, "go", go)
    assert site.run(SLURM_RESTART_COUNT="1", SLURMD_NODENAME="n2") == (1, [])
    assert [error.home for error in reasons] == ["" if missing else "n1"]
    monkeypatch.setattr(where, "go", lambda *_: False)
    with pytest.raises(Misfit, match="No such file" if missing else "its checkpoints were made on n1"):
        site.run(SLURM_RESTART_COUNT="1", SLURMD_NODENAME="n2")
    if not missing:
        assert site.run(SLURM_RESTART_COUNT="1", SLURMD_NODENAME="n1") == (FRESH, ["create"])


def test_what_comes_too_late(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    outlived: list[str] = []
    monkeypatch.setattr(Step, "is_too_late", lambda _: True)
    monkeypatch.setattr(script_end, "outlive", lambda task, _: outlived.append(task.key))
    assert site.run() == (run.KILLED, ["pretend"])
    assert outlived == ["7/0.0"]


def test_what_is_not_in_order_does_not_change_the_exit_status(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ended(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Step, "ended", ended)
    assert site.run() == (FRESH, ["create"])
    assert "job 7 step 0 task 0 leaves, which ended with 5, is not in order: Stale file" in capfd.readouterr().err
