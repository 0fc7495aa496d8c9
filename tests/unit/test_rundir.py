"""The files of a job's run directory, by which the job's programs know of each other."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from oci_criu_shim.slurm import rundir
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.slurm.tasks import Task
from oci_criu_shim.transfer import holding

SPANK = Path(__file__).parents[2] / "spank"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    path = tmp_path / "7"
    path.mkdir()
    return RunDirectory(str(path))


@pytest.mark.parametrize(
    ("environment", "helper", "proxy"),
    [
        ({"SLURM_STEP_ID": "3", "SLURM_LOCALID": "2"}, "helper.3.sock", "task.3.2.sock"),
        ({}, "helper.4294967291.sock", "task.4294967291.0.sock"),
        ({"SLURM_STEP_ID": "-5"}, "helper.4294967291.sock", "task.4294967291.0.sock"),
        ({"SLURM_STEP_ID": "-6"}, "helper.4294967290.sock", "task.4294967290.0.sock"),
    ],
)
def test_sockets(directory: RunDirectory, environment: dict[str, str], helper: str, proxy: str) -> None:
    task = Task({"SLURM_JOB_ID": "7", **environment})
    assert directory.helper_socket(task) == f"{directory.path}/{helper}"
    assert directory.proxy_socket(task) == f"{directory.path}/{proxy}"


def known(directory: RunDirectory) -> tuple[bool, bool, bool]:
    return directory.was_signalled, directory.time_is_up, directory.is_requeued


def test_what_is_known_of_the_job(directory: RunDirectory) -> None:
    assert known(directory) == (False, False, False)
    Path(directory.file(rundir.SIGNALLED)).touch()  # by the watcher
    assert known(directory) == (True, False, False)
    for _ in range(2):
        directory.note_time_is_up()
    assert known(directory) == (True, True, False)
    directory.note_requeued(["JobId=7", "ExcNodeList=n1"])
    assert known(directory) == (True, True, True)
    assert Path(directory.file(rundir.REQUEUED)).read_text() == "JobId=7\nExcNodeList=n1\n"


def test_what_goes_with_the_job(directory: RunDirectory, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        directory.keep(str(tmp_path / name))
        directory.keep(str(tmp_path / name))
    directory.keep(str(tmp_path / "none"))
    links = [Path(directory.path, name) for name in os.listdir(directory.path)]
    assert sorted(os.readlink(link) for link in links) == [f"{tmp_path}/one", f"{tmp_path}/two"]
    assert all(link.name.removeprefix(rundir.KEPT).isdecimal() for link in links)


def test_one_has_the_job_requeued(directory: RunDirectory) -> None:
    assert [directory.is_first_to_requeue() for _ in range(3)] == [True, False, False]


def test_one_has_the_lock(directory: RunDirectory) -> None:
    with directory.lock(), open(directory.file(rundir.LOCK)) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with directory.lock():
        pass


def test_the_plugin_has_the_same_names() -> None:
    paths = (SPANK / "paths.h").read_text()
    assert all(f'"{name}"\n' in paths for name in (rundir.REQUEUED, rundir.SIGNALLED))
    script = (SPANK / "rundir.sh").read_text()
    assert f" {rundir.KEPT}* {rundir.RECEIVED}*;" in script
    assert f"##*/{holding.PREFIX}." in script
