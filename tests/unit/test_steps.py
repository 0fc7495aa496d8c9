"""Which steps count as finished, and what is done about one that does when its job is started again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config, files
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import DONE, Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller, tasks
from oci_criu_shim.slurm.rundir import KEPT, REQUEUED, SIGNALLED, TIME_IS_UP
from oci_criu_shim.task import schedule, steps
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.history import History
from oci_criu_shim.task.policy import NO_REASON, Policy
from oci_criu_shim.task.steps import Step
from tests.unit.test_ckpt import made as checkpoint
from tests.unit.test_slurm import seen

Make = Callable[..., Step]
Capture = pytest.CaptureFixture[str]
WHAT = "job 7 step 0 task 0"


class NoSignals:
    reader = -1


@pytest.fixture
def make(tmp_path: Path, bundle_path: Path, config: dict[str, Any]) -> Make:
    """A step of job 7 on its way: its container has an init."""

    def made(restarts: int = 0, step: str = "0", command: str = "true", bundle: str = "/b", **env: str) -> Step:
        slurms = {"SLURM_JOB_ID": "7", "SLURM_CHECKPOINT": "preempt", "SLURM_CONTAINER": bundle, **env}
        slurms |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        slurms |= {"SLURM_STEP_ID": step} if step else {}
        config["process"] |= {"env": [f"{name}={value}" for name, value in slurms.items()], "args": [command]}
        (bundle_path / "config.json").write_text(json.dumps(config))
        container = Container(str(tmp_path / "run"), f"c{len(list(tmp_path.glob('run/*')))}")
        container.reserve()
        Path(container.path("init.pid")).touch()
        plan = Plan(container, str(bundle_path), {}, [], None, Log())
        assert plan.task
        store = Store(str(tmp_path / "store"), plan.task.key)
        os.makedirs(store.directory, exist_ok=True)
        store.prepare()
        policy = Policy(container, plan.task, store, settings(), plan.log)
        return Step(plan, policy, NoSignals())  # type: ignore[arg-type]

    return made


def settings() -> config.Settings:
    return config.Settings(config.DEFAULTS)


@pytest.fixture(autouse=True)
def marks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The marks of containers: why they must go, and how they are."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(Departure, "mark", lambda _, *mark: told.append(mark))
    return told


def says(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Have Slurm say of the job that it runs, but for `changes`."""
    monkeypatch.setattr(controller, "job", lambda number, soon=False: seen(**changes))


def silent(*_: object, **__: object) -> None:
    raise ShimError("scontrol: no answer")


def run(step: Step, status: int = 0, told: bool = False) -> None:
    """As a launch does, for one that is started."""
    assert step.done() is None
    if not step.store.started():
        step.store.mark_started()
    step.ended(status, told)


def kept(step: Step) -> list[str]:
    return sorted(os.listdir(step.store.path))


@pytest.mark.parametrize("status", [0, 3, 127])
def test_what_ended_by_itself_has_finished(make: Make, capfd: Capture, status: int) -> None:
    first = make()
    checkpoint(Path(first.store.directory), "7/0.0")
    run(first, status)
    assert kept(first) == [steps.FINISHED]
    assert make(restarts=1).done() == status
    said = f"oci-criu-shim: {WHAT} had finished with status {status}; not run again (--checkpoint-rerun runs it)\n"
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("other", [{"command": "false"}, {"bundle": "/c"}])
def test_another_one_of_that_number_runs(make: Make, capfd: Capture, other: dict[str, str]) -> None:
    run(make())
    step = make(restarts=1, **other)
    assert step.done() is None
    assert kept(step) == []
    (what,) = other
    assert f"{WHAT} runs: what had finished under this number has another {what}\n" in capfd.readouterr().err


def test_what_an_earlier_version_wrote(make: Make) -> None:
    """A digest of the command, in place of the command."""
    run(make(), 3)
    path = Path(make(restarts=1).path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "version": 1, "command": files.digest(record["command"])}))
    assert make(restarts=1).done() == 3
    assert make(restarts=1, command="false").done() is None


def test_two_that_have_changed_places(make: Make, capfd: Capture) -> None:
    """As steps in the background may. Each gives its own status; so does one that is run later."""
    run(make(command="false"), 1)
    run(make(step="1"), 0)
    assert (make(restarts=1).done(), make(step="1", restarts=1, command="false").done()) == (0, 1)
    assert make(step="1", restarts=2).done() == 0
    assert "another command" not in capfd.readouterr().err


def test_rerun(make: Make, capfd: Capture) -> None:
    run(make())
    step = make(restarts=1, SLURM_CHECKPOINT_RERUN="yes")
    assert (step.done(), kept(step), capfd.readouterr().err) == (None, [], "")


def test_an_earlier_job_of_that_number(make: Make) -> None:
    run(make())
    assert make().done() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 3, "status": 0}', '{"version": 1, "status": 256}'])
def test_what_cannot_be_read_does_not_run_twice(make: Make, text: str) -> None:
    Path(make().path).write_text(text)
    with pytest.raises(ShimError, match=f"finished.json, which says how {WHAT} ended, cannot be read"):
        make(restarts=1).done()
    assert make(restarts=1, SLURM_CHECKPOINT_RERUN="yes").done() is None


@pytest.mark.parametrize(("status", "told"), [(137, False), (143, False), (0, True), (3, True)])
@pytest.mark.parametrize("goes_on", [True, False])
def test_where_a_signal_had_part_slurm_is_asked(
    make: Make, monkeypatch: pytest.MonkeyPatch, status: int, told: bool, goes_on: bool
) -> None:
    says(monkeypatch, states=["RUNNING" if goes_on else "CANCELLED"])
    step = make()
    run(step, status, told)
    assert kept(step) == [steps.FINISHED if goes_on else "started"]


@pytest.mark.parametrize(("when", "said"), [("interval:1h", True), ("preempt", False), ("interval:1h,timeout", False)])
def test_a_time_limit_of_a_job_that_asks_at_no_signal(
    make: Make, monkeypatch: pytest.MonkeyPatch, capfd: Capture, when: str, said: bool
) -> None:
    """With `preempt` it was said at the signal."""
    says(monkeypatch, states=["TIMEOUT", "COMPLETING"])
    run(make(SLURM_CHECKPOINT=when), 143)
    assert ("job 7 ends by its time limit: with `timeout` in --checkpoint" in capfd.readouterr().err) is said


def test_what_slurm_does_not_say_has_not_finished(make: Make, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr(controller, "job", silent)
    step = make()
    run(step, 137)
    assert kept(step) == ["started"]
    assert f"{WHAT} ended with status 137, and counts as unfinished if its job is restarted" in capfd.readouterr().err


def test_a_program_that_never_ran(make: Make) -> None:
    step = make()
    os.unlink(step.plan.container.path("init.pid"))
    run(step, 127)
    assert not os.path.exists(step.store.path)


def test_what_a_checkpoint_ended_has_not_finished(
    make: Make, monkeypatch: pytest.MonkeyPatch, marks: list[tuple[str, str]]
) -> None:
    """It outlives the batch script, which would go on."""
    says(monkeypatch, batch=False)
    step = make()
    Path(step.plan.container.path(DONE)).write_text("taken")
    run(step, 137)
    assert (kept(step), marks) == (["started"], [])


@pytest.mark.parametrize(
    ("reason", "result", "left_running", "restarts", "taken"),
    [
        (schedule.PREEMPT, None, False, 1, True),
        (schedule.TIMEOUT, 1, False, 1, True),
        (schedule.PREEMPT, NO_REASON, False, 1, False),
        (schedule.PREEMPT, None, False, 0, False),
        (schedule.PREEMPT, None, True, 1, False),
        (schedule.INTERVAL, None, True, 1, False),
    ],
)
def test_who_took_the_checkpoint_that_ended_it_was_killed(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    marks: list[tuple[str, str]],
    reason: str,
    result: int | None,
    left_running: bool,
    restarts: int,
    taken: bool,
) -> None:
    """And could not leave its mark; or has failed then."""
    says(monkeypatch, batch=False, restarts=1)
    step = make(restarts=1)
    step.policy.begin(reason)
    fields = {"reason": schedule.TIMEOUT, "left_running": left_running, "restarts": restarts}
    checkpoint(Path(step.store.directory), "7/0.0", **fields)  # type: ignore[arg-type]
    if result is not None:
        step.policy.done(reason, result)
    run(step, 137)
    assert marks == ([("timeout", "taken")] if taken else [])
    assert (steps.FINISHED in kept(step)) is not taken


@pytest.mark.parametrize("step", ["0", ""])
def test_ended_by_a_checkpoint_that_failed(make: Make, marks: list[tuple[str, str]], step: str) -> None:
    """It has not finished, though nothing has it restarted."""
    one = make(step=step)
    checkpoint(Path(one.store.directory), one.task.key)
    Path(one.plan.container.path(DONE)).write_text("lost")
    run(one, 133)
    assert (kept(one), marks) == (["1", "started"], [])


def test_an_earlier_run_leaves_a_later_one_alone(make: Make) -> None:
    """On a node that Slurm took for dead."""
    first = make()
    first.done()
    first.store.mark_started()
    second = make(restarts=1)
    assert second.done() is None
    first.ended(0, told=False)
    assert kept(first) == ["started"]
    second.ended(0, told=False)
    assert kept(second) == [steps.FINISHED]


def test_a_full_disk(make: Make, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    step = make()
    checkpoint(Path(step.store.directory), "7/0.0")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_json", full)
    run(step)
    assert kept(step) == ["1", "started"]
    assert "finished with status 0 can't be written down" in capfd.readouterr().err


@pytest.mark.parametrize(("status", "gone"), [(0, True), (1, False)])
def test_a_batch_step_ends_the_job(make: Make, status: int, gone: bool) -> None:
    run(make())
    batch = make(step="")
    run(batch, status)
    assert os.path.exists(os.path.dirname(batch.store.path)) is not gone
    assert make(step="", restarts=1).done() is None


@pytest.mark.parametrize(("status", "again"), [(0, 0), (1, None)])
def test_a_restarted_batch_step_may_be_started_once_more(make: Make, status: int, again: int | None) -> None:
    """By Slurm, where it had requeued the job itself in its grace time."""
    batch = make(step="", restarts=1)
    run(batch, status)
    assert os.path.exists(f"{batch.directory.path}/{REQUEUED}") is (again is not None)
    later = make(step="", restarts=2)
    assert later.done() == again
    assert os.readlink(next(Path(later.directory.path).glob(f"{KEPT}*"))) == os.path.dirname(batch.store.path)


@pytest.mark.parametrize(("counted", "again"), [("no", 3), ("yes", None)])
def test_a_batch_step_that_is_started_once_more(make: Make, counted: str, again: int | None) -> None:
    """With whatever status: Slurm did not count its last preemption. If it does not, its checkpoints are there."""
    first, batch = make(step=""), make(step="", restarts=1)
    History(first.log, first.store.directory, first.task).note("requeued", counted=counted)
    checkpoint(Path(first.store.directory), "7/batch.0")
    run(batch, 3)
    assert batch.store.numbers()
    assert make(step="", restarts=2).done() == again


@pytest.mark.parametrize(("mark", "why"), [(SIGNALLED, schedule.PREEMPT), (TIME_IS_UP, schedule.TIMEOUT)])
def test_none_starts_when_the_job_must_go(
    make: Make, monkeypatch: pytest.MonkeyPatch, marks: list[tuple[str, str]], mark: str, why: str
) -> None:
    says(monkeypatch, preempt_time=9)
    step = make()
    assert not step.is_too_late()
    Path(step.directory.path, mark).touch()
    assert step.is_too_late()
    step.ended(0, told=False)
    assert marks == [(why, "taken"), (why, "ended")]


def test_a_signal_that_meant_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    step = make()
    Path(step.directory.path, SIGNALLED).touch()
    says(monkeypatch)
    assert not step.is_too_late()
    monkeypatch.setattr(controller, "job", silent)
    assert not step.is_too_late()


def test_link_for_the_end_of_the_job(make: Make) -> None:
    first, second = make(), make(step="1")
    for step in (first, second):
        step.done()
    (link,) = Path(first.directory.path).glob("kept.*")
    assert os.readlink(link) == f"{first.store.directory}/7"


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({}, "7"),
        ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3"),
        ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "0"}, "5_0"),
    ],
)
def test_name_of_the_job(env: dict[str, str], name: str) -> None:
    assert tasks.Task({"SLURM_JOB_ID": "7", **env}).name == name


def test_keep(make: Make) -> None:
    assert make(SLURM_CHECKPOINT_KEEP="5").policy.keep == 5
    assert make().policy.keep == settings().keep
    for bad in ("0", "-1", "many", ""):
        with pytest.raises(ShimError, match="--checkpoint-keep is a number of checkpoints, at least 1"):
            make(SLURM_CHECKPOINT_KEEP=bad)


def test_tcp(make: Make) -> None:
    assert make().policy.closes
    assert make(SLURM_CHECKPOINT_TCP="close").policy.closes
    assert not make(SLURM_CHECKPOINT_TCP="refuse").policy.closes
    refusing = config.Settings(config.DEFAULTS | {"tcp": "refuse"})
    assert [refusing.closes(asked) for asked in ("", "refuse", "close")] == [False, False, True]
    for bad in ("keep", ""):
        with pytest.raises(ShimError, match="--checkpoint-tcp is close or refuse, not"):
            make(SLURM_CHECKPOINT_TCP=bad)
