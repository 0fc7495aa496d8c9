"""The history of a job: what is written, what is read of it, and what it does not disturb."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from oci_criu_shim import config
from oci_criu_shim.checkpoints import quota
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.cli import parse
from oci_criu_shim.cli.ckpt import place
from oci_criu_shim.cli.job.story import Story
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import controller, tasks
from oci_criu_shim.task import history
from tests.unit.test_slurm import seen

Capture = pytest.CaptureFixture[str]
TAKEN = {"bytes": 5, "reason": "preempt", "runs_on": False, "seconds": 0.5, "frozen": 0.25, "at": 1.0}


def log(directory: Path, job_id: int = 12, **environment: str) -> history.History:
    task = tasks.of({"SLURM_JOB_ID": str(job_id), "SLURM_RESTART_COUNT": "1", **environment})
    assert task
    return history.History(Log(debug=True), str(directory), task)


def events(directory: Path, job_id: int = 12) -> list[history.Event]:
    return history.read(str(directory), job_id).get("batch.0", [])


def file(directory: Path) -> Path:
    return directory / "history/12/batch.0.jsonl"


def test_written(tmp_path: Path, capfd: Capture) -> None:
    told = log(tmp_path)
    told.note("started")
    told.event("said", "checkpointed", path="/c/12/batch.0/3", **TAKEN)
    told.error("wrong", "refused", reason="torn", log="")
    assert capfd.readouterr().err == "oci-criu-shim: said\noci-criu-shim: error: wrong\n"
    lines = [json.loads(line) for line in file(tmp_path).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "checkpointed", "refused"]
    assert {(line["node"], line["restarts"]) for line in lines} == {(os.uname().nodename, 1)}
    assert lines[0]["time"] <= lines[1]["time"] <= lines[2]["time"]
    assert lines[1].items() >= {"path": "/c/12/batch.0/3", "seq": 3, **TAKEN}.items()
    assert [file(tmp_path).stat().st_mode & 0o777, file(tmp_path).parent.stat().st_mode & 0o777] == [0o600, 0o700]


def test_a_migration(tmp_path: Path) -> None:
    """The checkpoint in memory has other names on each node; the history has the one that it will have."""
    told = log(tmp_path)
    told.note("started")
    told.note("checkpointed", path="/dev/shm/oci-criu-shim.12.batch.0.x/3", **TAKEN)
    told.note("restored", path="/dev/shm/.stage.n2.640.394491/3", seconds=0.1)
    assert [event.get("path") for event in events(tmp_path)] == [None, *[f"{tmp_path}/12/batch.0/3"] * 2]
    story = Story(12, {"batch.0": events(tmp_path)}, alive=True)
    assert story.runs[0].source is story.runs[0].checkpoints[0]


def test_what_earlier_versions_did_not_write(tmp_path: Path) -> None:
    told = log(tmp_path)
    told.note("checkpointed", path="/c/12/batch.0/3", **TAKEN)
    told.note("checkpointed", path="/c/12/batch.0/4", **TAKEN, waited=2.5)
    assert [event["waited"] for event in events(tmp_path)] == [0, 2.5]


def test_what_is_kept_with_it(tmp_path: Path, capfd: Capture) -> None:
    told = log(tmp_path)
    path = told.keep("restore-3.log", b"CRIU's words")
    assert (path, Path(path).read_text()) == (f"{tmp_path}/history/12/batch.0.1.restore-3.log", "CRIU's words")
    told.note("refused", reason="no", log=path)
    assert [(event["reason"], event["log"]) for event in events(tmp_path)] == [("no", path)]
    assert told.keep("restore-" + "4" * 300, b"") == Log().keep("restore-4.log", b"") == ""
    assert "File name too long" in capfd.readouterr().err


def test_lines_without_an_event_are_told_only(tmp_path: Path) -> None:
    told = log(tmp_path)
    told.event("said")
    told.error("wrong")
    told.debug("more")
    assert not file(tmp_path).exists()
    Log().event("said", "requeued")
    Log().note("started")


def test_steps_and_tasks(tmp_path: Path) -> None:
    for step, task in (("10", "0"), ("2", "1")):
        log(tmp_path, SLURM_STEP_ID=step, SLURM_PROCID=task).note("started")
    assert set(history.read(str(tmp_path), 12)) == {"10.0", "2.1"}


def test_where_it_cannot_be_written(tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "history").touch()
    log(tmp_path).note("started")
    assert "no history of this" in capfd.readouterr().err
    assert history.jobs(str(tmp_path)) == []


def test_a_link_is_not_followed(tmp_path: Path, capfd: Capture) -> None:
    file(tmp_path).parent.mkdir(parents=True)
    (tmp_path / "precious").write_text("as it was")
    file(tmp_path).symlink_to(tmp_path / "precious")
    log(tmp_path).note("started")
    assert "no history of this" in capfd.readouterr().err
    assert (tmp_path / "precious").read_text() == "as it was"
    assert events(tmp_path) == []


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    file(tmp_path).parent.mkdir(parents=True)
    os.mkfifo(file(tmp_path))
    assert events(tmp_path) == []


GOOD = {"time": 1.0, "node": "n1", "restarts": 0, "name": "12", "event": "ended", "status": 0}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "12",
        "nonsense",
        "\0" * 40,
        json.dumps({**GOOD, "event": "unheard-of"}),
        json.dumps({**GOOD, "event": ["ended"]}),
        json.dumps({**GOOD, "time": "now"}),
        json.dumps({**GOOD, "time": float("nan")}),
        json.dumps({**GOOD, "time": 1e300}),
        json.dumps({**GOOD, "restarts": -1}),
        json.dumps({**GOOD, "status": "well"}),
        json.dumps({**GOOD, "node": None}),
        json.dumps({**GOOD, "name": 12}),
        json.dumps({**GOOD, "event": "checkpointed", "path": "/c/1", **TAKEN, "bytes": float("inf")}),
        json.dumps({**GOOD, "event": "checkpointed", "path": "/c/1", **TAKEN, "at": 1e300}),
    ],
)
def test_lines_that_are_no_events(tmp_path: Path, line: str) -> None:
    file(tmp_path).parent.mkdir(parents=True)
    file(tmp_path).write_text(f"{line}\n{json.dumps(GOOD)}\n")
    assert events(tmp_path) == [{**GOOD, "job_name": ""}]


def test_after_an_unfinished_line(tmp_path: Path) -> None:
    told = log(tmp_path)
    told.note("started")
    whole = file(tmp_path).read_bytes()
    file(tmp_path).write_bytes(whole + whole[:30])
    told.note("requeued")
    assert [event["event"] for event in events(tmp_path)] == ["started", "requeued"]


def test_what_a_terminal_would_obey(tmp_path: Path) -> None:
    log(tmp_path).note("refused", reason='\x1b]0;title\x07 and {"time": 1, \ud800')
    assert events(tmp_path)[0]["reason"] == '?]0;title? and {"time": 1, ?'


def test_the_end_of_a_job_is_noted_for_each_task(tmp_path: Path) -> None:
    for step in ("0", "1"):
        log(tmp_path, SLURM_STEP_ID=step, SLURM_JOB_NAME="count.sh").note("started")
    history.note_end(str(tmp_path), 12, seen(states=["CANCELLED"], restarts=1, end_time=77))
    for key in ("0.0", "1.0"):
        last = history.read(str(tmp_path), 12)[key][-1]
        assert (last["event"], last["state"], last["at"], last["restarts"]) == ("job-ended", "CANCELLED", 77, 1)
        assert (last["name"], last["job_name"]) == ("12", "count.sh")


def test_others_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path).note("started")
    assert history.jobs(str(tmp_path)) == [12]
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert history.jobs(str(tmp_path)) == []
    assert history.read(str(tmp_path), 12) == {}


def test_beside_checkpoints(tmp_path: Path) -> None:
    log(tmp_path).note("started")
    task = Store(str(tmp_path), "12/batch.0")
    task.prepare()
    assert (place.find(str(tmp_path)), quota.used(str(tmp_path))) == ([], 0)
    task.clear()
    assert [event["event"] for event in events(tmp_path)] == ["started"]
    assert not (tmp_path / "12").exists()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Histories of jobs 7, 8 and 9: all but job 8's are old, and Slurm knows job 9."""
    settings = config.load(str(tmp_path / "none"))
    settings.checkpoint_dir = str(tmp_path)
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(controller, "known_jobs", lambda: {9})
    for number in (7, 8, 9):
        log(tmp_path, number).note("started")
        log(tmp_path, number, SLURM_STEP_ID="1").note("started")
        log(tmp_path, number).keep("restore-1.log", b"")
    for number in (7, 9):
        for path in (tmp_path / f"history/{number}").iterdir():
            os.utime(path, (1, 1))
    os.utime(tmp_path / "history/8/batch.0.jsonl", (1, 1))
    return tmp_path


def test_prune(site: Path, capfd: Capture) -> None:
    for words in (["--dry-run"], []):
        assert history.jobs(str(site)) == [7, 8, 9]
        assert parse.main(["ckpt", "prune", *words]) == 0
        assert capfd.readouterr().out.splitlines()[0] == f"{site}/history/7"
    assert history.jobs(str(site)) == [8, 9]
