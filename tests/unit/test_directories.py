"""Where a job's checkpoints are looked for if only its number is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
from oci_criu_shim.cli import directories
from oci_criu_shim.container import ownership
from oci_criu_shim.errors import Others, ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import commands, controller, submission
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import pointers


class Site:
    """The site's directory, and others that have something of a job's or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.site = str(path / "site")
        self.asked: list[str] = []
        self.known: dict[str, dict[str, Any]] = {}

    def directory(self, name: str, *jobs: int) -> str:
        (self.path / name).mkdir(exist_ok=True)
        for job in jobs:
            (self.path / name / str(job)).mkdir()
        return str(self.path / name)

    def note(self, directory: str, job: int = 12, cluster: str = "c", **environment: str) -> None:
        task = Task({"SLURM_JOB_ID": str(job), "SLURM_CLUSTER_NAME": cluster, **environment})
        pointers.note(task, directory, Log())

    def look(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        if name in self.known:
            return self.known[name]
        raise ShimError(f"Slurm knows no job {name}")

    def submitted(self, directory: str, uid: int = -1) -> None:
        line = f"sbatch --container=b --checkpoint-dir={directory} job.sh"
        uid = os.geteuid() if uid < 0 else uid
        self.known["12"] = {"job": 12, "uid": uid, "directory": str(self.path), "line": line, "states": ["RUNNING"]}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    made.directory("site")
    settings = config.load(str(tmp_path / "none"))
    settings.checkpoint_dir = made.site
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(ownership, "is_root", lambda: False)
    monkeypatch.setattr(controller, "conf_directory", lambda: "/etc/slurm")
    monkeypatch.setattr(submission, "look", made.look)
    monkeypatch.setattr(submission, "run", no_answer)
    monkeypatch.delenv(directories.VARIABLE, raising=False)
    return made


def no_answer(*argv: str) -> str:
    raise ShimError(f"{argv[0]} does not answer")


def test_one_after_the_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that has anything of the job's; Slurm is asked only if no other has."""
    site.submitted(site.directory("submitted", 12))
    assert directories.of_job("12", None) == (f"{site.path}/submitted", 12)
    assert site.asked == ["12"]
    site.directory("site", 12)
    assert directories.of_job("12", None) == (site.site, 12)
    site.note(site.directory("noted", 12))
    assert directories.of_job("12", None) == (f"{site.path}/noted", 12)
    monkeypatch.setenv(directories.VARIABLE, site.directory("named", 13))
    assert directories.of_job("12", None) == (f"{site.path}/noted", 12)
    assert directories.of_job("13", None) == (f"{site.path}/named", 13)
    assert directories.of_job("12", site.directory("given")) == (f"{site.path}/given", 12)
    assert site.asked == ["12"]


def test_a_relative_directory(site: Site) -> None:
    site.directory("submitted", 12)
    site.submitted("submitted")
    assert directories.of_job("12+1", None) == (f"{site.path}/submitted", 12)


def test_what_a_job_script_says(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm before 25.05 does not tell the command line."""
    site.submitted("")
    site.known["12"]["line"] = ""
    script = f"#!/bin/sh\n#SBATCH -n1 --checkpoint # often\n#SBATCH --checkpoint-dir {site.directory('own', 12)}\n"

    def run(*argv: str) -> str:
        return script if argv == ("scontrol", "write", "batch_script", "12", "-") else no_answer(*argv)

    monkeypatch.setattr(submission, "run", run)
    assert directories.of_job("12", None) == (f"{site.path}/own", 12)


def test_an_array(site: Site) -> None:
    site.note(site.directory("noted", 15), 15, SLURM_ARRAY_JOB_ID="12", SLURM_ARRAY_TASK_ID="3")
    assert directories.of_job("12_3", None) == directories.of_job("15", None) == (f"{site.path}/noted", 15)
    with pytest.raises(ShimError, match=f"job 12_4 has no history in {site.site}$"):
        directories.of_job("12_4", None)


def test_clusters_that_share_a_home(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.note(site.directory("noted", 12))
    site.note(site.directory("other", 12), cluster="d")
    for cluster, name in (("c", "noted"), ("d", "other")):
        monkeypatch.setattr(controller, "configuration", lambda cluster=cluster: {"ClusterName": cluster})
        assert directories.of_job("12", None) == (f"{site.path}/{name}", 12)


@pytest.mark.parametrize("word", ["0", "twelve", "12_", "-1", "12:3", "٣"])
def test_what_is_no_job(site: Site, word: str) -> None:
    with pytest.raises(ShimError, match="a JOBID is a number such as 12, or 12_3 of an array, not"):
        directories.of_job(word, None)


def test_one_that_is_not_found(site: Site) -> None:
    with pytest.raises(ShimError) as raised:
        directories.of_job("12", None)
    assert raised.value.hint == directories.OTHERS
    site.submitted("elsewhere")
    with pytest.raises(ShimError, match=f"job 12 has no history in {site.site}, {site.path}/elsewhere$") as raised:
        directories.of_job("12", None)
    assert raised.value.hint == directories.NONE_YET


def test_another_users(site: Site) -> None:
    site.submitted(site.directory("submitted", 12), uid=os.geteuid() + 1)
    with pytest.raises(Others, match="job 12 belongs to user "):
        directories.of_job("12", None)


def test_root_does_not_go_by_what_users_wrote(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if a directory of root's has something of that number."""
    monkeypatch.setattr(ownership, "is_root", lambda: True)
    monkeypatch.setattr(submission, "checkpoint_directories", pytest.fail)
    site.directory("site", 12)
    site.submitted(site.directory("submitted", 12), uid=os.geteuid() + 1)
    with pytest.raises(Others, match="job 12 belongs to user "):
        directories.of_job("12", None)


def test_notes_are_looked_for_in_the_callers_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's sudo may leave HOME as it was."""
    monkeypatch.undo()
    monkeypatch.setenv("HOME", "/home/alice")
    assert not pointers.place().startswith("/home/alice/") or os.geteuid()


def test_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert directories.all_of(None) == [site.site]
    site.note(site.directory("noted"))
    site.note(site.site, 13)
    site.note(f"{site.path}/gone", 14)
    assert directories.all_of(None) == [site.site, f"{site.path}/noted"]
    monkeypatch.setenv(directories.VARIABLE, site.directory("named"))
    assert directories.all_of(None) == [f"{site.path}/named", site.site, f"{site.path}/noted"]
    assert directories.all_of(site.directory("given")) == [f"{site.path}/given"]
    with pytest.raises(ShimError, match="/nothing is not a directory"):
        directories.all_of(f"{site.path}/nothing")


RECORD = {
    **{"job_id": 12, "user_id": 1000, "job_state": ["RUNNING"], "current_working_directory": "/home/alice"},
    **{"het_job_id": {"set": True, "infinite": False, "number": 0}},
    **{"standard_output": "/home/alice/12.out", "standard_error": "/home/alice/12.out"},
}


def test_what_slurm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {"scontrol": [{**RECORD, "job_id": 13}, RECORD], "sacct": None}

    def ask(_: str, reads: Any) -> list[Any]:
        if answers["scontrol"] is None:
            raise ShimError("Slurm knows no job 12")
        return list(map(reads, answers["scontrol"]))

    def run(*argv: str) -> str:
        return str(answers["sacct"]) if argv[0] == "sacct" and answers["sacct"] else no_answer(*argv)

    monkeypatch.setattr(submission, "ask", ask)
    monkeypatch.setattr(submission, "run", run)
    found = submission.look("12")
    assert (found["job"], found["uid"], found["output"], found["line"]) == (12, 1000, "/home/alice/12.out", "")
    assert submission.look("99")["job"] == 13  # an array that has begun in part
    answers["sacct"] = "12|1000|/home/alice|CANCELLED by 0|sbatch -J 'a|b' --checkpoint-dir 'my dir' job.sh\n"
    assert next(submission.checkpoint_directories("12", found)) == "/home/alice/my dir"
    answers["scontrol"] = None
    found = submission.look("12")
    assert (found["uid"], found["states"], found["directory"]) == (1000, ["CANCELLED"], "/home/alice")
    answers["sacct"] = "\n"
    with pytest.raises(ShimError, match="Slurm knows no job 12"):
        submission.look("12")


def test_numbers_as_slurm_writes_them() -> None:
    assert commands.number_of({"set": False, "number": 3}) == 0
