"""The checkpoint store: what counts, what is kept, what is swept, and what is refused."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import process
from oci_criu_shim.checkpoints import store as module
from oci_criu_shim.checkpoints.store import Checkpoint, Stage, Store
from oci_criu_shim.errors import ShimError
from tests.unit.test_schema import full_manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path), "7/batch.0")
    made.prepare()
    return made


def fill(stage: Stage, text: str = "image") -> dict[str, Any]:
    Path(stage.images, "core-1.img").write_text(text)
    return full_manifest() | {"files": stage.sizes()}


def commit(store: Store, text: str = "image") -> Checkpoint:
    with store.stage() as stage:
        return stage.commit(fill(stage, text))


def newest(store: Store) -> Checkpoint:
    found = next(iter(store.newest_first()))
    assert isinstance(found, Checkpoint)
    return found


def damage(store: Store) -> str:
    found = next(iter(store.newest_first()))
    assert isinstance(found, ShimError)
    return str(found)


def test_empty(tmp_path: Path) -> None:
    missing = Store(str(tmp_path), "1/0.0")
    assert missing.numbers() == []
    assert list(missing.newest_first()) == []


def test_commit_makes_it_the_newest(store: Store) -> None:
    assert [commit(store).seq, commit(store).seq] == [1, 2]
    assert newest(store).seq == 2
    assert Path(newest(store).images, "core-1.img").read_text() == "image"


def test_a_stage_is_no_checkpoint(store: Store) -> None:
    with store.stage() as stage:
        fill(stage)
        assert store.numbers() == []
    assert os.listdir(store.path) == []


def test_a_failed_commit_leaves_the_previous_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("oci_criu_shim.files.sync_directory", full)
    with pytest.raises(OSError, match="No space left"):
        commit(store)
    assert os.listdir(store.path) == ["1"]
    assert newest(store).seq == 1


def test_an_early_write_that_failed_is_no_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def broken(_: int) -> None:
        tried.set()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", broken)
    with store.stage() as stage:
        manifest = fill(stage)
        assert tried.wait(60)
        with pytest.raises(OSError, match="Input/output error"):
            stage.commit(manifest)
    assert os.listdir(store.path) == []


def test_keep(store: Store) -> None:
    for _ in range(4):
        commit(store)
    store.keep(2)
    assert store.numbers() == [3, 4]
    assert commit(store).seq == 5


def test_numbers_are_not_names(store: Store) -> None:
    for _ in range(11):
        commit(store)
    assert newest(store).seq == 11


def test_truncated_file_is_named(store: Store) -> None:
    commit(store)
    path = commit(store).images + "/core-1.img"
    os.truncate(path, 2)
    assert damage(store) == f"{path} has 2 bytes, not 5"


def test_missing_file_is_named(store: Store) -> None:
    path = commit(store).images + "/core-1.img"
    os.unlink(path)
    assert damage(store) == f"{path}: No such file or directory"


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]"])
def test_bad_manifest_is_named(store: Store, text: str) -> None:
    path = Path(commit(store).path, "manifest.json")
    path.write_text(text)
    assert str(path) in damage(store)


def test_an_older_one_comes_after_a_damaged_one(store: Store) -> None:
    commit(store)
    os.unlink(commit(store).images + "/core-1.img")
    first, second = store.newest_first()
    assert isinstance(first, ShimError)
    assert isinstance(second, Checkpoint)


def test_sweeps_what_ended_writers_left(store: Store) -> None:
    host, alive = socket.gethostname(), os.getpid()
    kept = {f".stage.{host}.{alive}.{process.start_time(alive)}", ".stage.elsewhere.1.1", "1"}
    swept = {f".stage.{host}.{alive}.1", f".stage.{host}.{1 << 23}.1"}
    for name in kept | swept:
        os.makedirs(os.path.join(store.path, name, "checkpoint"))
    store.prepare()
    assert set(os.listdir(store.path)) == kept


def test_started(store: Store) -> None:
    assert not store.started()
    store.mark_started()
    assert store.started()
    assert store.numbers() == []


def test_clear_removes_the_jobs_directory_last(tmp_path: Path) -> None:
    tasks = [Store(str(tmp_path), f"7/0.{rank}") for rank in range(2)]
    for task in tasks:
        task.prepare()
    tasks[0].clear()
    assert os.listdir(tmp_path / "7") == ["0.1"]
    tasks[1].clear()
    assert os.listdir(tmp_path) == []


def test_directories_are_the_owners_alone(store: Store) -> None:
    path = commit(store).path
    assert [os.stat(name).st_mode & 0o777 for name in (path, path + "/checkpoint")] == [0o700, 0o700]


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match="none: No such file"):
        Store(str(tmp_path / "none"), "7/0.0").prepare()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ShimError, match="is not a directory"):
        module.check_directory(str(tmp_path / "file"))


def test_somebody_elses_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ShimError, match=f"belongs to user {owner}"):
        Store(str(tmp_path), "7/0.0").prepare()
