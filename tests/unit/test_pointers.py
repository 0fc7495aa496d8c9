"""Where jobs keep their checkpoints, as they have noted it in their user's home directory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from oci_criu_shim.log import Log
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.task import history, pointers


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "own/12").mkdir(parents=True)
    return tmp_path / "own"


ARRAY = {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"}


def note(directory: Path | None, job: int = 12, cluster: str = "c", array: dict[str, str] | None = None) -> None:
    task = Task({"SLURM_JOB_ID": str(job), "SLURM_CLUSTER_NAME": cluster, **(array or {})})
    pointers.note(task, str(directory) if directory else None, Log())


def age(name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(os.path.join(pointers.place(), name), (then, then), follow_symlinks=False)


def test_a_job(directory: Path) -> None:
    assert not pointers.find("12") and not pointers.directories()
    note(directory)
    note(directory)
    assert pointers.find("12") == [("c", 12, str(directory))]
    assert pointers.find("1") == pointers.find("12_0") == []
    assert pointers.directories() == [str(directory)]
    note(directory.parent)
    assert pointers.find("12") == [("c", 12, str(directory.parent))]


def test_the_sites_directory_needs_no_note(directory: Path) -> None:
    """One of an earlier job of that number would mislead."""
    note(None)
    assert not os.path.exists(pointers.place())
    note(directory)
    note(None)
    assert os.listdir(pointers.place()) == []


def test_an_array(directory: Path) -> None:
    note(directory, array=ARRAY)
    assert pointers.find("10_3") == pointers.find("12") == [("c", 12, str(directory))]
    note(None, array=ARRAY)
    assert os.listdir(pointers.place()) == []


def test_two_clusters(directory: Path, tmp_path: Path) -> None:
    note(directory)
    note(tmp_path, cluster="../d")
    assert sorted(pointers.find("12")) == [(".._d", 12, str(tmp_path)), ("c", 12, str(directory))]


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pointers, "place", lambda: "/proc/nothing")
    note(Path("/shared"))
    assert capfd.readouterr().err == ""
    assert pointers.find("12") == []


def test_what_is_swept(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads to nothing, what another node may have for long enough, and what is too much."""
    (directory / "history/14").mkdir(parents=True)
    for job in (12, 13, 14):
        note(directory, job)
    note(tmp_path / "elsewhere", 15)
    note(tmp_path / "elsewhere", 16)
    age("16@c", history.KEPT_SECONDS + 60)
    for name in ("12@c.7.tmp", "12@c.8.tmp"):
        os.symlink("/", os.path.join(pointers.place(), name))
    age("12@c.8.tmp", pointers.MAKING_SECONDS + 60)
    pointers.sweep()
    assert sorted(os.listdir(pointers.place())) == ["12@c", "12@c.7.tmp", "14@c", "15@c"]
    assert [found[1] for found in pointers.find("12")] == [12]
    os.unlink(os.path.join(pointers.place(), "12@c.7.tmp"))
    age("12@c", 60)
    monkeypatch.setattr(pointers, "MOST", 2)
    pointers.sweep()
    assert sorted(os.listdir(pointers.place())) == ["14@c", "15@c"]
