"""How files that were open for writing go back to their lengths at a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.manifest import Written
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.restore.rollback import Rollback, place
from oci_criu_shim.slurm import tasks
from tests.unit.test_schema import full_manifest


class Lines(Log):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def event(self, text: str, kind: str = "", **facts: object) -> None:
        self.lines.append(text)


def row_of(path: Path, size: int, **more: Any) -> Written:
    row: Written = {"mount": "/data", "name": path.name, "size": size, "inode": path.stat().st_ino}
    return cast(Written, {**row, **more})


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "store/12/0.0"
    path.mkdir(parents=True)
    return path


def rollback(task: Path, base: Path, *rows: Written) -> tuple[Rollback, Lines]:
    checkpoint = Checkpoint(str(task / "1"), full_manifest(written=list(rows)))
    log = Lines()
    return Rollback(checkpoint, str(task / "cut"), {"/data": str(base)}, log), log


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base/inner").mkdir(parents=True)
    (tmp_path / "base/ledger").write_text("before after")
    return tmp_path / "base"


def test_longer_goes_back_and_what_is_cut_off_is_kept(task: Path, base: Path) -> None:
    found, log = rollback(task, base, row_of(base / "ledger", 7, others=False))
    assert found
    found.run()
    assert (base / "ledger").read_text() == "before "
    kept = task / "cut/1-ledger"
    assert kept.read_text() == "after"
    assert log.lines == [
        f"/data/ledger goes back to its length at the checkpoint (7 bytes); what came after it is kept in {kept}"
    ]
    with (base / "ledger").open("a") as stream:
        stream.write("again")
    rollback(task, base, row_of(base / "ledger", 7))[0].run()
    assert (task / "cut/2-ledger").read_text() == "again"


@pytest.mark.parametrize("size", [12, 13])
def test_equal_and_shorter_stay(task: Path, base: Path, size: int) -> None:
    assert not rollback(task, base, row_of(base / "ledger", size))[0]


def test_what_was_replaced_meanwhile_stays(task: Path, base: Path) -> None:
    found, log = rollback(task, base, row_of(base / "ledger", 7))
    (base / "ledger").write_text("before ")
    found.run()
    assert log.lines == []
    assert not (task / "cut").exists()


def test_gone_and_unknown_stay(task: Path, base: Path) -> None:
    row = row_of(base / "ledger", 1)
    assert not rollback(task, base, {**row, "name": "none"}, {**row, "mount": "/else"})[0]


def test_a_file_that_is_mounted_itself(task: Path, base: Path) -> None:
    row = row_of(base / "ledger", 7, name="")
    log = Lines()
    found = Rollback(
        Checkpoint(str(task / "1"), full_manifest(written=[row])),
        str(task / "cut"),
        {"/data": str(base / "ledger")},
        log,
    )
    found.run()
    assert (base / "ledger").read_text() == "before "
    assert (task / "cut/1-data").read_text() == "after"


@pytest.mark.parametrize("name", ["link", "linked/ledger"])
def test_no_symbolic_link_is_followed(task: Path, base: Path, name: str) -> None:
    outside = base.parent / "outside"
    outside.mkdir()
    (outside / "ledger").write_text("before after")
    (base / "link").symlink_to(outside / "ledger")
    (base / "linked").symlink_to(outside)
    found, _ = rollback(task, base, {**row_of(base / "ledger", 7), "name": name})
    if found:
        with pytest.raises(ShimError, match=f"/data/{name} cannot go back to its length at the checkpoint"):
            found.run()
    assert (outside / "ledger").read_text() == "before after"


def test_what_others_append_to_stays(task: Path, base: Path) -> None:
    found, log = rollback(task, base, row_of(base / "ledger", 7, others=True))
    found.run()
    assert (base / "ledger").read_text() == "before after"
    assert "others write it too" in log.lines[0]


@pytest.mark.parametrize(
    ("key", "alive", "stays"),
    [("12/1.0", set(), True), ("13/0.0", {13}, True), ("13/0.0", {12}, False), ("13/0.0", None, True)],
    ids=["own-job", "running", "ended", "unknown"],
)
def test_what_another_task_has_open_stays(
    task: Path, base: Path, monkeypatch: pytest.MonkeyPatch, key: str, alive: set[int] | None, stays: bool
) -> None:
    row = row_of(base / "ledger", 7)
    manifests = {f"{key}/2": [row], f"{key}/1": [], "12/0.0/1": [row]}
    for path in manifests:
        (task.parent.parent / path).mkdir(parents=True)
    (task.parent.parent / "rates").mkdir()
    (task.parent.parent / "12/file").touch()
    (task.parent.parent / "2024").touch()

    def read(path: str) -> Checkpoint:
        return Checkpoint(path, full_manifest(written=manifests["/".join(path.split("/")[-3:])]))

    def known_jobs(ended: bool) -> set[int]:
        if alive is None:
            raise ShimError("squeue: not now")
        return alive

    monkeypatch.setattr("oci_criu_shim.checkpoints.store.read", read)
    monkeypatch.setattr("oci_criu_shim.slurm.controller.known_jobs", known_jobs)
    found, log = rollback(task, base, row)
    found.run()
    assert (base / "ledger").read_text() == ("before after" if stays else "before ")
    assert ("others write it too" in log.lines[0]) is stays


def test_nothing_is_cut_that_could_not_be_kept(task: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    found, _ = rollback(task, base, row_of(base / "ledger", 7))
    with pytest.raises(ShimError, match="No space left") as raised:
        found.run()
    assert raised.value.hint.startswith(f"make room for what is cut off, in {task}/cut")
    assert (base / "ledger").read_text() == "before after"
    assert os.listdir(task / "cut") == []


@pytest.mark.parametrize(
    ("left_running", "taken", "restarts", "goes_back"),
    [(True, 0, 0, True), (True, 0, 1, True), (False, 0, 1, False), (False, 0, 2, True), (False, 3, 4, False)],
)
def test_only_where_the_container_has_run_since(
    task: Path, left_running: bool, taken: int, restarts: int, goes_back: bool
) -> None:
    checkpoint = Checkpoint(str(task / "1"), full_manifest(left_running=left_running, restarts=taken))
    environment = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": str(restarts)}
    assert place(checkpoint, tasks.Task(environment)) == (str(task / "cut") if goes_back else None)
    assert place(checkpoint, tasks.Task({**environment, "SLURM_JOB_ID": "2"})) is None


def test_what_was_cut_off_outlives_the_checkpoints(tmp_path: Path) -> None:
    store = Store(str(tmp_path), "12/0.0")
    store.prepare()
    (tmp_path / "12/0.0/1").mkdir()
    (tmp_path / "12/0.0/cut").mkdir()
    store.mark_started()
    store.clear()
    assert os.listdir(tmp_path / "12/0.0") == ["cut"]
    store.forget()
    assert os.listdir(tmp_path) == []
