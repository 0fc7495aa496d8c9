"""`oci-criu-shim job status`, by its command line, over made histories; and the pictures that it draws."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.cli import parse
from oci_criu_shim.cli.job import story
from oci_criu_shim.cli.job.story import Story
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.job import Job
from tests.unit.test_slurm import seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.task.history import Event

Capture = pytest.CaptureFixture[str]
BEGIN = 1763800000.0  # 2025-11-22T08:26:40Z


def event(time: float, node: str, restarts: int, kind: str, **facts: object) -> Event:
    made: Any = {"time": BEGIN + time, "node": node, "restarts": restarts, "name": "12", "event": kind, **facts}
    return made  # type: ignore[no-any-return]


def taken(seq: int, at: float, reason: str = "preempt", frozen: float = 1.0) -> dict[str, Any]:
    runs_on = reason == "interval"
    facts = {"path": f"/c/12/batch.0/{seq}", "bytes": 16 << 20, "reason": reason, "runs_on": runs_on}
    return {**facts, "seconds": frozen + 0.5, "frozen": frozen, "at": BEGIN + at}


def back(seq: int, seconds: float = 2.0) -> dict[str, Any]:
    return {"path": f"/c/12/batch.0/{seq}", "seconds": seconds}


def preempted() -> list[Event]:
    """Preempted once after 100 s, restored 30 s later, and completed."""
    return [
        event(0, "n1", 0, "started"),
        event(102, "n1", 0, "checkpointed", **taken(1, 100)),
        event(103, "n1", 0, "requeued"),
        event(104, "n1", 0, "ended", status=137),
        event(133, "n2", 1, "restored", **back(1)),
        event(200, "n2", 1, "ended", status=0),
    ]


def unlucky() -> list[Event]:
    """A node dies, the newest checkpoint is damaged, and in the end it fails."""
    return [
        event(0, "n1", 0, "started"),
        event(602, "n1", 0, "checkpointed", **taken(1, 600, "interval")),
        event(1202, "n1", 0, "checkpointed", **taken(2, 1200, "interval")),
        event(1500, "n1", 0, "checkpoint-failed", reason="the disk is full"),
        event(2000, "n2", 1, "refused", reason="CRIU could not restore it", log="/c/12.log"),
        event(2010, "n2", 1, "restored", **back(1, 5)),
        event(2610, "n2", 1, "checkpointed", **taken(3, 2605, "interval")),
        event(2805, "n2", 1, "ended", status=3),
    ]


def told(*events: Event, alive: bool = True) -> Story:
    return Story(12, {"batch.0": list(events)}, alive)


def test_preempted_once() -> None:
    found = told(*preempted())
    assert (found.state, found.nodes, found.bound) == (story.COMPLETED, ["n1", "n2"], "")
    assert (found.kept, found.lost, found.waited, found.frozen) == (100, 0, 30, 1)
    first, second = found.runs
    assert (first.outcome, first.begin, first.end) == (story.CHECKPOINTED, BEGIN, BEGIN + 101)
    assert (second.outcome, second.begin, second.end) == (story.COMPLETED, BEGIN + 131, BEGIN + 200)
    assert [checkpoint["reason"] for checkpoint in found.checkpoints] == ["preempt"]
    assert [restored["path"] for restored in found.restores] == ["/c/12/batch.0/1"]


def test_a_node_that_died() -> None:
    found = told(*unlucky())
    first, second = found.runs
    assert (first.outcome, first.end, first.kept) == (story.DIED, None, 600)
    assert (first.lost, first.bound, second.waited) == (2000 - 601, "at most ", None)
    assert (second.outcome, second.status, second.begin) == (story.FAILED, 3, BEGIN + 2000)
    assert (second.kept, second.lost) == (605, 2805 - 2606)
    assert found.state == story.FAILED
    assert [problem["event"] for run in found.runs for problem in run.problems] == ["checkpoint-failed", "refused"]


def test_of_no_use_to_a_run_that_began_anew() -> None:
    events = [*preempted()[:4], event(120, "n2", 1, "refused", reason="torn")]
    events += [event(121, "n2", 1, "fell-back", reason="none"), event(122, "n2", 1, "started")]
    first, second = told(*events).runs
    assert (first.kept, first.lost) == (0, 101)
    assert (second.begin, second.outcome, second.begun) == (BEGIN + 120, story.RUNNING, True)


def test_a_start_that_failed() -> None:
    found = told(*preempted()[:4], event(120, "n2", 1, "failed", reason="it has no checkpoint"))
    assert (found.state, found.runs[1].end, found.runs[1].begun) == (story.FAILED, BEGIN + 120, False)


def test_a_node_that_it_does_not_fit() -> None:
    events = [*preempted()[:4], event(120, "n2", 1, "refused", reason="no avx512"), event(121, "n2", 1, "requeued")]
    found = told(*events, event(122, "n2", 1, "ended", status=1))
    assert (found.state, found.runs[1].outcome, found.runs[1].end) == (story.WAITING, story.REQUEUED, BEGIN + 121)
    assert (found.kept, found.lost) == (100, 0)
    found = told(*events, event(150, "n3", 2, "restored", **back(1)), event(160, "n3", 2, "ended", status=0))
    assert (found.state, found.kept, found.lost, len(found.runs)) == (story.COMPLETED, 100, 0, 3)
    assert found.waited == 120 - 101 + 148 - 121


def test_waiting_and_running() -> None:
    waiting = told(*preempted()[:3])
    assert (waiting.state, waiting.kept, waiting.lost) == (story.WAITING, 100, 0)
    running = told(*preempted()[:5])
    assert (running.state, running.runs[1].end, running.lost) == (story.RUNNING, None, 0)
    assert running.end > BEGIN + 133
    gone = told(*preempted()[:5], alive=False)
    assert (gone.state, gone.bound, gone.lost) == (story.DIED, "at least ", 2)


def present(tmp_path: Path, *events: Event) -> list[Event]:
    """Those events, of checkpoints that are on disk."""
    moved: list[Any] = [{**one, "path": f"{tmp_path}{one['path']}"} if "path" in one else one for one in events]
    for one in moved:
        if "path" in one:
            Path(one["path"]).mkdir(parents=True, exist_ok=True)
    return moved


def test_what_is_safe_while_it_runs(tmp_path: Path) -> None:
    """The work of the run that has not ended is in its newest checkpoint, as long as that is there."""
    events = [*preempted()[:5], event(194, "n2", 1, "checkpointed", **taken(2, 191, "interval"))]
    events = present(tmp_path, *events, event(254, "n2", 1, "checkpointed", **taken(3, 251, "interval")))
    found = told(*events)
    assert (found.state, found.kept, found.lost, found.goes_on) == (story.RUNNING, 100 + 120, 0, True)
    Path(events[-1]["path"]).rmdir()
    found = told(*events)
    assert (found.kept, [checkpoint["seq"] for checkpoint in found.describe()["tasks"][0]["checkpoints"]]) == (
        160,
        [1, 2, 3],
    )
    assert [one["removed"] for one in found.describe()["tasks"][0]["checkpoints"]] == [False, False, True]


def test_a_number_that_is_taken_again(tmp_path: Path) -> None:
    """Only the later one is there."""
    events = [event(0, "n1", 0, "started")]
    events += [event(at + 2, "n1", 0, "checkpointed", **taken(1, at, "interval")) for at in (10, 20)]
    (task,) = told(*present(tmp_path, *events)).tasks
    assert [task.has(one) for one in task.checkpoints] == [False, True]


def ended(at: float, state: str, restarts: int = 1) -> Event:
    return event(at + 500, "n1", restarts, "job-ended", state=state, at=BEGIN + at)


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("CANCELLED", story.CANCELLED),
        ("TIMEOUT", story.TIMEOUT),
        ("OUT_OF_MEMORY", story.NO_MEMORY),
        ("NODE_FAIL", story.DIED),
    ],
)
def test_what_slurm_ended(word: str, outcome: str) -> None:
    """Its program was killed, or ended by the signal; if that took no notice of it, it has completed."""
    killed = told(*preempted()[:5], ended(333, word), alive=False)
    assert (killed.state, killed.runs[1].outcome, killed.end) == (outcome, outcome, BEGIN + 333)
    assert (killed.bound, killed.lost) == ("", 333 - 131)
    by_signal = told(*preempted()[:5], ended(333, word), event(334, "n2", 1, "ended", status=143), alive=False)
    assert by_signal.state == (story.FAILED if outcome == story.DIED else outcome)
    assert (by_signal.end, by_signal.runs[1].status) == (BEGIN + 334, 143)
    completed = told(*preempted()[:5], ended(333, word), event(334, "n2", 1, "ended", status=0), alive=False)
    assert completed.state == story.COMPLETED


def test_cancelled_while_it_waited_as_slurm_says() -> None:
    found = told(*preempted()[:4], ended(333, "CANCELLED"), alive=False)
    assert (found.state, len(found.runs), found.end) == (story.CANCELLED, 1, BEGIN + 333)
    assert (found.tasks[0].fate, found.tasks[0].given_up) == (story.CANCELLED, BEGIN + 333)


def test_what_goes_on_from_one_that_does_not(tmp_path: Path) -> None:
    way = "a job with --restart-dir=12 goes on from its checkpoints"
    events = [event(0, "n1", 0, "started"), event(9, "n1", 0, "checkpointed", **taken(1, 8, "interval"))]
    gone = told(*events, ended(43, "CANCELLED", 0), alive=False)
    assert (gone.state, gone.reason) == (story.CANCELLED, "")
    events = present(tmp_path, *events)
    assert told(*events, ended(43, "CANCELLED", 0), alive=False).reason == way
    limited = told(*events, ended(43, "TIMEOUT", 0), alive=False)
    assert limited.reason == f"`--checkpoint=preempt,timeout` has a job go on after its time limit; {way}"
    stopped = told(*present(tmp_path, *preempted()[:4]), alive=False)
    assert stopped.reason == f"Slurm does not start it again; {way}"
    for status, reason in ((0, ""), (3, way)):
        assert told(*events, event(50, "n1", 0, "ended", status=status)).reason == reason


def test_slurm_is_asked_once_how_it_ended(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "known_jobs", lambda ended=True: {14} if ended else set())
    asked: list[int] = []
    end = 0

    def job(number: int) -> Job:
        asked.append(number)
        return seen(states=["CANCELLED"], restarts=1, end_time=int(BEGIN) + end)

    monkeypatch.setattr(controller, "job", job)
    assert ran(capfd, 14).startswith("job 14 (count.sh): died; ")  # before its last event: another cluster's job
    end = 333
    asked.clear()
    for _ in range(2):
        assert ran(capfd, 14).startswith("job 14 (count.sh): cancelled; ")
    assert asked == [14]
    monkeypatch.setattr(controller, "known_jobs", lambda ended=True: set())
    found = json.loads(ran(capfd, 14, "--json"))
    assert (found["state"], found["end"], found["tasks"][0]["runs"][1]["end"]) == ("cancelled", *[BEGIN + 333] * 2)


def test_what_a_user_wrote_there_is_no_fault(site: Path, capfd: Capture) -> None:
    events = [event(0, "n1", 0, "checkpointed", **{**taken(1, 0), "path": "/c/x"}), ended(5, "CANCELLED")]
    for some in (events, events[:1]):
        (site / "history/12/batch.0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
        assert json.loads(ran(capfd, 12, "--json"))["tasks"][0]["checkpoints"][0]["seq"] is None
        ran(capfd, 12)
        ran(capfd, 12, "--timeline", site / "a.html")
        assert svg(site, capfd, 12)
    (site / "history/12/batch.0.jsonl").write_text(json.dumps(events[1]) + "\n")
    assert parse.main(["job", "status", "12"]) == 1


def test_where_a_run_goes_on_from(site: Path, capfd: Capture) -> None:
    """Another job's checkpoint, or one that was imported to some directory."""
    path = site / "history/13/batch.0.jsonl"
    for place, origin in (("/c/63/batch.0/6", "63:6"), ("/c/imported/1", "/c/imported/1")):
        path.write_text(json.dumps(event(9, "n1", 0, "restored", path=place, seconds=2.0)) + "\n")
        assert f"  {origin} " in ran(capfd, 13)
        assert json.loads(ran(capfd, 13, "--json"))["tasks"][0]["runs"][0]["origin"] == origin


def test_safe(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "known_jobs", lambda ended=True: {14})
    path = site / "history/14/batch.0.jsonl"
    assert "\nsafe: 0s (no checkpoint), lost 0s;" in ran(capfd, 14)
    events = present(site, *preempted()[:5], event(154, "n2", 1, "checkpointed", **taken(2, 136, "interval")))
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    printed = ran(capfd, 14)
    assert "\nsafe: 1m45s (checkpoint 2), lost 0s;" in printed
    assert " 1m45s " in ran(capfd).splitlines()[3]
    other = site / "history/14/0.0.jsonl"
    other.write_text(path.read_text())
    assert "\nsafe: 3m30s, lost 0s;" in ran(capfd, 14)


def test_steps_that_begin_again_in_one_run_of_the_job() -> None:
    events = [event(0, "n1", 0, "started"), event(5, "n1", 0, "ended", status=1), event(6, "n1", 0, "started")]
    assert [run.outcome for run in told(*events).runs] == [story.FAILED, story.RUNNING]


def test_tasks_in_order() -> None:
    found = Story(12, {key: preempted() for key in ("10.0", "2.1", "batch.0", "2.0")}, True)
    assert [task.key for task in found.tasks] == ["batch.0", "2.0", "2.1", "10.0"]
    assert (found.kept, len(found.runs)) == (400, 8)


def stopped() -> list[Event]:
    why = "PreemptMode=CANCEL: a job with --restart-dir=12 goes on from here"
    return [*preempted()[:2], event(103, "n1", 0, "not-requeued", reason=why), preempted()[3]]


def test_not_requeued() -> None:
    found = told(*stopped())
    assert (found.state, found.kept, found.runs[0].outcome) == (story.PREEMPTED, 100, story.CHECKPOINTED)
    assert found.reason == "PreemptMode=CANCEL: a job with --restart-dir=12 goes on from here"
    events = stopped()
    events[1]["reason"] = "timeout"
    assert told(*events).state == story.STOPPED
    by_hand = told(*stopped(), *preempted()[4:])
    assert (by_hand.state, by_hand.reason) == (story.COMPLETED, "")


def test_cancelled_while_it_waited() -> None:
    found = told(*preempted()[:4], alive=False)
    assert (found.state, found.runs[0].outcome) == (story.STOPPED, story.CHECKPOINTED)
    assert found.reason == "Slurm does not start it again"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("JobHeldUser", "JobHeldUser: it waits for `scontrol release 12`"),
        ("JobHoldMaxRequeue", "JobHoldMaxRequeue: it waits for an admin, by `scontrol release 12`"),
    ],
)
def test_held(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, reason: str, said: str) -> None:
    events = "".join(json.dumps(one) + "\n" for one in preempted()[:4])
    (site / "history/12/batch.0.jsonl").write_text(events)
    monkeypatch.setattr(controller, "known_jobs", lambda ended=True: {12})
    monkeypatch.setattr(controller, "held", dict)
    assert ran(capfd, "12").startswith("job 12: waiting; ")
    monkeypatch.setattr(controller, "held", lambda: {12: reason})
    assert ran(capfd, "12").splitlines()[:2] == ["job 12: held; 1 run, 1 checkpoint, 0 restores", said]
    assert json.loads(ran(capfd, "12", "--json"))["reason"] == said


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Histories of three jobs in the site's directory: 12 was preempted, 13 unlucky, 14 runs; Slurm knows none."""
    settings = config.load(str(tmp_path / "none"))
    settings.checkpoint_dir = str(tmp_path)
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(controller, "known_jobs", lambda ended=True: set())
    for number, events in ((12, preempted()), (13, unlucky()), (14, preempted()[:5])):
        path = tmp_path / f"history/{number}/batch.0.jsonl"
        path.parent.mkdir(parents=True)
        about = {"name": str(number), "job_name": "count.sh"}
        path.write_text("".join(json.dumps({**event, **about}) + "\n" for event in events))
    return tmp_path


def ran(capfd: Capture, *words: object) -> str:
    """What `job status` prints."""
    assert parse.main(["job", "status", *map(str, words)]) == 0
    printed = capfd.readouterr()
    assert not printed.err
    return printed.out


def test_list(site: Path, capfd: Capture) -> None:
    heading, *rows = [line.split() for line in ran(capfd).splitlines()]
    assert heading[:6] == ["JOB", "NAME", "STATE", "BEGAN", "(UTC)", "RUNS"]
    assert heading[6:] == ["CHECKPOINTS", "RESTORES", "KEPT", "LOST", "WAITED", "NODES"]
    assert rows[0] == ["12", "count.sh", "completed", "2025-11-22T08:26:40Z", *"211", "1m40s", "0s", "30s", "n1,n2"]
    states = [["12", "count.sh", "completed"], ["13", "count.sh", "failed"], ["14", "count.sh", "died"]]
    assert [row[:3] for row in rows] == states
    assert [one["job"] for one in json.loads(ran(capfd, "--json"))] == [12, 13, 14]


def test_list_of_none(tmp_path: Path, capfd: Capture) -> None:
    assert ran(capfd, "--checkpoint-dir", tmp_path) == f"no job of yours has a history in {tmp_path}\n"
    assert json.loads(ran(capfd, "--checkpoint-dir", tmp_path, "--json")) == []


def test_one(site: Path, capfd: Capture) -> None:
    assert ran(capfd, 12).splitlines() == [
        "job 12 (count.sh): completed; 2 runs, 1 checkpoint, 1 restore",
        "work kept 1m40s, lost 0s; waited 30s, frozen 1.00 s",
        "",
        "step batch, task 0:",
        "  RUN  NODE  BEGIN (UTC)           END (UTC)             FROM       OUTCOME       KEPT   LOST  WAITED",
        "  1    n1    2025-11-22T08:26:40Z  2025-11-22T08:28:21Z  the start  checkpointed  1m40s  0s    -",
        "  2    n2    2025-11-22T08:28:51Z  2025-11-22T08:30:00Z  12:1       completed     -      -     30s",
        "checkpoints:",
        "  SEQ  RUN  AT (UTC)              WHY      SIZE      SECONDS  FROZEN",
        "  1    1    2025-11-22T08:28:20Z  preempt  16.0 MiB  1.50     1.00    removed",
    ]


def test_one_of_an_array(site: Path, capfd: Capture) -> None:
    """Slurm need not know it, nor need its history have a name."""
    path = site / "history/13/batch.0.jsonl"
    path.write_text(path.read_text().replace('"name": "13"', '"name": "11_3"'))
    assert ran(capfd, "11_3") == ran(capfd, 13)
    assert ran(capfd, 13).startswith("job 13 (11_3, count.sh): failed; ")
    (found,) = [one for one in json.loads(ran(capfd, "--json")) if one["job"] == 13]
    assert (found["id"], found["name"]) == ("11_3", "count.sh")
    assert ran(capfd).splitlines()[2].startswith("13 (11_3)  count.sh  failed ")
    path.write_text(path.read_text().replace('"name": "11_3", ', ""))
    assert ran(capfd, 13).startswith("job 13 (count.sh): failed; ")


def test_a_component_of_a_heterogeneous_job(site: Path, capfd: Capture) -> None:
    """All are checkpointed under the number of the first."""
    assert ran(capfd, "12+1") == ran(capfd, 12)


def test_somebody_elses(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert parse.main(["job", "status", "12"]) == 1
    assert f"error: the history of job 12 belongs to user {pwd.getpwuid(uid).pw_name} " in capfd.readouterr().err


def test_a_list_names_whose_the_others_are(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert parse.main(["job", "status"]) == 0
    user = pwd.getpwuid(uid).pw_name
    assert f"histories of {user} in {site} can't be read (hint: a history is for its" in capfd.readouterr().err
    monkeypatch.setattr(ownership, "is_root", lambda: True)
    assert parse.main(["job", "status", f"--checkpoint-dir={site}"]) == 0
    assert f"runuser --pty -u {user} -- oci-criu-shim job status --checkpoint-dir={site}`)" in capfd.readouterr().err


def test_problems_are_told(site: Path, capfd: Capture) -> None:
    printed = ran(capfd, 13, "--checkpoint-dir", site)
    assert "2025-11-22T08:51:40Z checkpoint-failed on n1: the disk is full" in printed
    assert "refused on n2: CRIU could not restore it (see /c/12.log)\n" in printed
    assert "failed (3)" in printed and "at most 23m19s" in printed


def test_json(site: Path, capfd: Capture) -> None:
    found = json.loads(ran(capfd, 12, "--json"))
    assert (found["state"], found["kept"], found["nodes"]) == ("completed", 100, ["n1", "n2"])
    (task,) = found["tasks"]
    assert [(run["node"], run["outcome"]) for run in task["runs"]] == [("n1", "checkpointed"), ("n2", "completed")]
    assert task["checkpoints"][0]["path"] == task["runs"][1]["restored"]["path"] == "/c/12/batch.0/1"


@pytest.mark.parametrize("known", [{14}, None])
def test_one_that_runs(site: Path, capfd: Capture, known: set[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm knows it, or does not answer."""

    def known_jobs(ended: bool = True) -> set[int]:
        assert not ended
        if known is None:
            raise ShimError("no squeue")
        return known

    monkeypatch.setattr(controller, "known_jobs", known_jobs)
    assert ran(capfd, 14).startswith("job 14 (count.sh): running; ")


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["99"], "job 99 has no history in ", 1),
        (["12x"], "a JOBID is a number such as 12, or 12_3 of an array, not '12x'", 2),
        (["-1"], "unknown option '-1'", 2),
        (["0"], "a JOBID is a number such as 12, or 12_3 of an array, not '0'", 2),
        (["٣"], "a JOBID is a number such as 12, or 12_3 of an array, not '٣'", 2),
        (["12_"], "a JOBID is a number such as 12, or 12_3 of an array, not '12_'", 2),
        (["12_3"], "job 12_3 has no history in ", 1),
        (["99+1"], "job 99+1 has no history in ", 1),
        (["99999999999"], "a JOBID is a number", 2),
        (["--timeline", "a.svg"], "--timeline draws one job: it needs a JOBID", 2),
        (["12", "--timeline", "a.pdf"], "a.pdf is not named as a picture (hint: name it .svg, .png or .html)", 2),
        (["12", "--timeline", "/nonexistent/a.svg"], "No such file or directory", 1),
        (["12", "--checkpoint-dir", "/nonexistent"], "/nonexistent is not a directory", 1),
        (["12", "13"], "job status takes [JOBID]", 2),
    ],
)
def test_refused(site: Path, capfd: Capture, words: list[str], said: str, status: int) -> None:
    try:
        found = parse.main(["job", "status", *words])
        line = capfd.readouterr().err
    except ShimError as error:
        found, line = error.status, error.line() + "\n"
    assert (found, line.count("\n")) == (status, 1)
    assert said in line


def svg(site: Path, capfd: Capture, number: int) -> str:
    path = site / "picture.svg"
    assert not ran(capfd, number, "--timeline", path)
    return path.read_text()


def count(picture: str, kind: str) -> int:
    return picture.count(f'<g id="{kind}-')


def test_timeline(site: Path, capfd: Capture) -> None:
    picture = svg(site, capfd, 12)
    counts = {kind: count(picture, kind) for kind in ("work", "wait", "checkpoint", "restore", "lost", "failed")}
    assert counts == {"work": 2, "wait": 1, "checkpoint": 1, "restore": 1, "lost": 0, "failed": 0}
    legend = ("running", "restore", "checkpoint, removed since", "waiting to go on")
    for text in ("n1", "n2", "Job 12 (count.sh): completed", "30s", *legend):
        assert f">{text}</text>" in picture, text
    assert "time since the job's start at 2025-11-22T08:26:40Z (seconds)" in picture.replace("&#x27;", "'")
    assert picture == svg(site, capfd, 12)


def waiting(site: Path) -> None:
    """Have the checkpoint of job 12 wait for its turn."""
    path = site / "history/12/batch.0.jsonl"
    path.write_text(path.read_text().replace('"runs_on": false', '"waited": 75.5, "runs_on": false'))


def test_one_that_waited_for_its_turn(site: Path, capfd: Capture) -> None:
    waiting(site)
    assert ran(capfd, 12).splitlines()[-1].endswith("  1.50     1.00    waited 1m15s, removed")
    picture = svg(site, capfd, 12)
    assert count(picture, "turn") == 1 and "checkpoint waits for its turn" in texts(picture)
    assert json.loads(ran(capfd, 12, "--json"))["tasks"][0]["checkpoints"][0]["waited"] == 75.5


@pytest.mark.skipif(not shutil.which("node"), reason="no node")
def test_a_page_with_one_that_waited_for_its_turn(site: Path, capfd: Capture) -> None:
    assert 'class="turn"' not in browsed(site, capfd, 12)
    waiting(site)
    drawn = browsed(site, capfd, 12)
    assert drawn.count('class="turn"') == 2 and "</svg>checkpoint waits for its turn</span>" in drawn


def test_timeline_of_an_unlucky_job(site: Path, capfd: Capture) -> None:
    picture = svg(site, capfd, 13)
    counts = {kind: count(picture, kind) for kind in ("work", "wait", "unseen", "checkpoint", "lost", "failed")}
    assert counts == {"work": 2, "wait": 0, "unseen": 1, "checkpoint": 3, "lost": 2, "failed": 2}
    assert (count(picture, "untaken"), count(picture, "refused")) == (1, 1)
    words = ("work lost", "lost or waiting", "failed or died", "checkpoint failed", "checkpoint refused")
    for text in (*words, "1", "2", "3"):
        assert f">{text}</text>" in picture, text
    assert "(minutes)" in picture


def test_timeline_of_many_checkpoints(site: Path, capfd: Capture) -> None:
    events = [event(0, "n1", 0, "started")]
    events += [event(i * 60 + 2, "n1", 0, "checkpointed", **taken(i, i * 60, "interval")) for i in range(1, 1000)]
    (site / "history/12/batch.0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    picture = svg(site, capfd, 12)
    assert count(picture, "frozen") == 999
    assert 20 < count(picture, "checkpoint") < 100


def test_timeline_of_several_tasks(site: Path, capfd: Capture) -> None:
    text = (site / "history/12/batch.0.jsonl").read_text()
    for key in ("0.0", "0.1"):
        (site / f"history/12/{key}.jsonl").write_text(text)
    picture = svg(site, capfd, 12)
    assert count(picture, "work") == 6
    for key in ("batch.0", "0.0", "0.1"):
        assert f">{key} on n1</text>" in picture and f">{key} on n2</text>" in picture


def test_timeline_of_more_tasks_than_there_is_room_for(site: Path, capfd: Capture) -> None:
    text = (site / "history/12/batch.0.jsonl").read_text()
    for number in range(40):
        (site / f"history/12/0.{number}.jsonl").write_text(text)
    picture = svg(site, capfd, 12)
    assert count(picture, "work") == 64
    assert ">Job 12 (count.sh): completed, the first 32 of 41 tasks</text>" in picture


def test_timeline_as_png(site: Path, capfd: Capture) -> None:
    path = site / "picture.PNG"
    ran(capfd, 13, f"--timeline={path}")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width == 1500
    assert 400 < height < 700
    assert len(data) > 10000


def test_timeline_without_matplotlib(site: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert parse.main(["job", "status", "12", "--timeline", str(site / "a.svg")]) == 1
    line = capfd.readouterr().err
    assert "this node has no matplotlib, which draws svg (hint: --timeline " in line
    assert f"{site}/a.html needs nothing; or have the site install python3-matplotlib)" in line
    assert not (site / "a.svg").exists()
    ran(capfd, 12, "--timeline", site / "a.html")
    assert (site / "a.html").exists()


def test_no_error_names_a_temporary_file(site: Path, capfd: Capture) -> None:
    (site / "a.png").mkdir()
    for path, said in ((site / "a.png", "Is a directory"), (site / "none/a.html", "No such file or directory")):
        assert parse.main(["job", "status", "12", "--timeline", str(path)]) == 1
        assert capfd.readouterr().err == f"oci-criu-shim: error: {path}: {said}\n"


def cancelled() -> list[Event]:
    """Cancelled at 43 s, with checkpoints at 20, 40 and 41.5 s."""
    events = [event(0, "n1", 0, "started")]
    for seq, at in enumerate((20, 40, 41.5), 1):
        events.append(event(at + 1, "n1", 0, "checkpointed", **taken(seq, at, "interval", 0.4)))
    return [*events, ended(43, "CANCELLED", 0)]


def test_timeline_of_one_that_was_cancelled_while_it_waited(site: Path, capfd: Capture) -> None:
    lines = [json.dumps(one) + "\n" for one in (*preempted()[:4], ended(333, "CANCELLED"))]
    (site / "history/12/batch.0.jsonl").write_text("".join(lines))
    picture = svg(site, capfd, 12)
    assert (count(picture, "wait"), count(picture, "cancelled"), count(picture, "failed")) == (1, 1, 0)
    assert "5" in texts(picture)  # minutes
    if NODE:
        drawn = browsed(site, capfd, 12)
        assert drawn.count('class="wait"') == 2 and drawn.count('class="ended"') == 2  # with the legend


def texts(picture: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", picture)


def test_timeline_of_one_that_was_cancelled(site: Path, capfd: Capture, tmp_path: Path) -> None:
    """It ends where the job ended. The last checkpoint has its number; one that is gone looks otherwise."""
    events = present(tmp_path, *cancelled())
    Path(events[1]["path"]).rmdir()
    (site / "history/12/batch.0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    picture = svg(site, capfd, 12)
    found = texts(picture)
    assert [text for text in found if text in ("1", "2", "3")] == ["3", "2", "1"]
    assert {"checkpoint", "checkpoint, removed since", "work lost", "cancelled"} <= set(found)
    assert "failed or died" not in found
    assert {"0", "5", "40"} <= set(found) and "45" not in found


def test_the_legend_names_what_can_be_seen(site: Path, capfd: Capture) -> None:
    """Half a second of a thousand can't."""
    events = [event(0, "n1", 0, "started"), event(999, "n1", 0, "checkpointed", **taken(1, 998.5, "interval", 1))]
    events.append(event(1000, "n1", 0, "ended", status=1))
    (site / "history/12/batch.0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    picture = svg(site, capfd, 12)
    assert (count(picture, "lost"), "work lost" in texts(picture)) == (1, False)


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (9, "0 1 2 3 4 5 6 7 8 9"),
        (100, "0 15 30 45 60 75 90"),
        (230, "0 30 60 90 120 150 180 210"),
        (3600, "0 10 20 30 40 50 60"),
        (86400, "0 3 6 9 12 15 18 21 24"),
    ],
)
def test_ticks_are_of_the_clock(site: Path, capfd: Capture, seconds: int, ticks: str) -> None:
    events = [event(0, "n1", 0, "started"), event(seconds, "n1", 0, "ended", status=0)]
    (site / "history/12/batch.0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    assert [text for text in texts(svg(site, capfd, 12)) if text.isdecimal()] == ticks.split()
    if NODE:
        assert [text for text in texts(browsed(site, capfd, 12)) if text.isdecimal()] == ticks.split()


NODE = shutil.which("node")


def page(site: Path, capfd: Capture, number: int) -> str:
    ran(capfd, number, "--timeline", site / "picture.html")
    return (site / "picture.html").read_text()


def browsed(site: Path, capfd: Capture, number: int) -> str:
    """What a browser would make of the page."""
    page(site, capfd, number)
    words = [NODE or "node", str(Path(__file__).parent / "dom.js"), str(site / "picture.html")]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_a_page_has_the_json_and_nothing_from_elsewhere(site: Path, capfd: Capture) -> None:
    path = site / "history/13/batch.0.jsonl"
    path.write_text(path.read_text().replace("count.sh", "</script><script>alert(1)"))
    text = page(site, capfd, 13)
    (about,) = re.findall(r'<script type="application/json" id="job">(.*?)</script>', text)
    found = json.loads(about)
    assert found.pop("title") == "Job 13 (</script><script>alert(1)): failed"
    assert found.pop("sums") == "work kept 20m5s, lost at most 26m38s, waited 0s"
    assert found == json.loads(ran(capfd, 13, "--json"))
    assert set(re.findall(r"\w+://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert len(text) < 16000


@pytest.mark.skipif(not NODE, reason="no node")
def test_a_page_draws_what_the_picture_has(site: Path, capfd: Capture) -> None:
    drawn = browsed(site, capfd, 13)
    counts = {kind: len(re.findall(rf'<\w+ class="{kind}" [^>]*><title>', drawn)) for kind in KINDS}
    assert counts == {kind: count(svg(site, capfd, 13), kind) for kind in KINDS} | {"removed": 3, "checkpoint": 0}
    assert {"1", "2", "3", "n1", "n2", "8m20s"} <= set(texts(drawn))
    legend = set(re.findall(r"</svg>([^<]+)</span>", drawn))
    assert legend == {
        *("running", "restore", "checkpoint, removed since", "checkpoint failed", "checkpoint refused"),
        *("work lost", "lost or waiting", "failed or died"),
    }


KINDS = ("work", "lost", "wait", "unseen", "restore", "checkpoint", "removed", "untaken", "refused", "failed")
