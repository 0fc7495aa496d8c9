"""The checkpoint store: what counts, what is kept, what is swept, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_criu_shim import files
from oci_criu_shim.checkpoints import committed, owner
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.manifest import Manifest
from oci_criu_shim.checkpoints.quota import CUT
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from tests.unit.test_schema import full_manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path), "7/batch.0")
    made.prepare()
    return made


def fill(stage: Stage, text: str = "image", size: int = 3) -> Manifest:
    Path(stage.images, "core-1.img").write_text(text)
    return full_manifest() | {"files": stage.sizes(), "bytes": size}


def commit(store: Store, text: str = "img", size: int = 3) -> Checkpoint:
    with store.stage() as stage:
        return stage.commit(fill(stage, text, size))


def oserror(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def newest(store: Store) -> Checkpoint:
    found = next(iter(store.newest_first()))
    assert isinstance(found, Checkpoint)
    return found


def damage(store: Store) -> str:
    found = next(iter(store.newest_first()))
    assert isinstance(found, ShimError)
    assert found.hint
    return str(found)


def test_empty(tmp_path: Path) -> None:
    missing = Store(str(tmp_path), "1/0.0")
    assert missing.numbers() == []
    assert list(missing.newest_first()) == []


def test_commit_makes_it_the_newest(store: Store) -> None:
    assert [commit(store).seq, commit(store).seq] == [1, 2]
    assert newest(store).seq == 2
    assert Path(newest(store).images, "core-1.img").read_text() == "img"


def test_a_stage_is_no_checkpoint(store: Store) -> None:
    with store.stage() as stage:
        fill(stage)
        assert store.numbers() == []
    assert os.listdir(store.path) == []


def test_a_failed_commit_leaves_the_previous_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("oci_criu_shim.files.sync", full)
    with pytest.raises(OSError, match="No space left"):
        commit(store)
    assert os.listdir(store.path) == ["1"]
    assert newest(store).seq == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["os.fsync", "os.rename", "os.mkdir", "json.dumps"])
def test_a_full_disk_leaves_the_previous_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    commit(store)
    content = contents(store)

    def full(*_: object, **__: object) -> None:
        raise oserror(number)

    monkeypatch.setattr(name, full)
    with pytest.raises(OSError, match=os.strerror(number)):
        commit(store)
    assert contents(store) == content
    assert os.listdir(store.path) == ["1"]


def contents(store: Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(store.path).rglob("*") if path.is_file()}


def test_a_name_that_does_not_get_to_the_disk_is_taken_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = files.sync

    def broken(path: str) -> None:
        if path == store.path:
            raise oserror(errno.EIO)
        sync(path)

    monkeypatch.setattr("oci_criu_shim.files.sync", broken)
    with pytest.raises(OSError, match="Input/output"):
        commit(store)
    assert os.listdir(store.path) == []


def test_two_writers_pick_the_same_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, "first")
    monkeypatch.setattr(Store, "numbers", lambda _: [])  # as the other one saw it
    assert commit(store, "second").seq == 2
    monkeypatch.undo()
    assert [Path(store.path, str(seq), "checkpoint/core-1.img").read_text() for seq in (1, 2)] == ["first", "second"]


def test_many_writers_at_once(store: Store) -> None:
    directory = os.path.dirname(os.path.dirname(store.path))

    def write() -> int:
        for _ in range(5):
            commit(Store(directory, "7/batch.0"))
        return 0

    children = [process.fork(write) for _ in range(4)]
    assert [process.wait(child) for child in children] == [0] * 4
    assert store.numbers() == list(range(1, 21))
    assert all(isinstance(found, Checkpoint) for found in store.newest_first())


def test_a_rename_that_was_asked_for_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def twice(source: str, target: str) -> None:
        rename(source, target)
        if os.path.dirname(target) == store.path:
            rename(source, target)

    monkeypatch.setattr(os, "rename", twice)
    assert commit(store).seq == 1
    assert newest(store).seq == 1


def test_a_stage_that_is_gone_is_no_checkpoint(store: Store) -> None:
    with store.stage() as stage:
        manifest = fill(stage)
        os.rename(stage.path, stage.path + ".elsewhere")
        with pytest.raises(FileNotFoundError):
            stage.commit(manifest)
    assert store.numbers() == []


def test_removed_by_two(store: Store) -> None:
    commit(store)
    store.remove(1)
    store.remove(1)
    assert os.listdir(store.path) == []


def test_a_file_that_another_node_has_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store)

    def busy(*_: object) -> None:
        raise oserror(errno.ENOTEMPTY)

    with monkeypatch.context() as patch:
        patch.setattr("oci_criu_shim.files.remove_tree", busy)
        store.remove(1)
        store.prepare()
    assert store.numbers() == []
    assert [name[:7] for name in os.listdir(store.path)] == [".gone.1"]
    store.prepare()
    assert os.listdir(store.path) == []


@pytest.mark.parametrize("cut", [False, True])
def test_a_file_that_is_open_on_this_node(store: Store, monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    """NFS renames it, and has it for busy."""
    open_files = [Path(commit(store).images, ".nfs1"), Path(commit(store).path, ".nfs2"), Path(store.path, ".nfs3")]
    if cut:
        Path(store.path, CUT).mkdir()
    for path in open_files:
        path.touch()
    unlink = os.unlink

    def busy(path: str, dir_fd: int | None = None) -> None:
        if ".nfs" in path:
            raise oserror(errno.EBUSY)
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", busy)
        store.clear()
    assert store.numbers() == []
    assert sorted(Path(path).name for path in contents(store)) == [".nfs1", ".nfs2", ".nfs3"]
    store.prepare()
    assert sorted(os.listdir(store.path)) == [".nfs3", *[CUT] * cut]


def test_an_image_that_was_removed_is_none(store: Store) -> None:
    with store.stage() as stage:
        Path(stage.images, ".nfs1").touch()
        assert list(fill(stage)["files"]) == ["checkpoint/core-1.img"]


def test_quota(tmp_path: Path) -> None:
    others = Store(str(tmp_path), "6/0.0")
    others.prepare()
    commit(others)
    store = Store(str(tmp_path), "7/0.0", quota=10)  # of three bytes each
    store.prepare()
    assert [commit(store).seq, commit(store).seq] == [1, 2]
    store.keep(2)
    assert store.numbers() == [1, 2]
    commit(store)
    store.keep(3)
    assert store.numbers() == [2, 3]
    with pytest.raises(ShimError, match=r"of 8 B beside 3 B of others in \S+ is more than the quota of 10") as refused:
        commit(store, size=8)
    assert refused.value.hint.endswith(
        f"prune --older-than=0s {tmp_path}` removes those of ended jobs; job 6 has the most, 3 B"
    )
    with pytest.raises(ShimError, match="of 11 B beside 3 B of others") as refused:
        commit(store, size=11)
    assert refused.value.hint == "have the site allow more: quota in config.toml"
    assert sorted(os.listdir(store.path)) == ["2", "3"]
    commit(store, "seven b", size=7)
    store.keep(3)
    assert store.numbers() == [4]


def test_what_was_cut_off_counts_and_stays(tmp_path: Path) -> None:
    store = Store(str(tmp_path), "7/0.0", quota=10)
    store.prepare()
    cut = Path(store.path, CUT, "1-ledger")
    cut.parent.mkdir()
    cut.write_text("12345")
    for _ in range(2):
        commit(store)
        store.keep(2)
    assert store.numbers() == [2]  # two of three bytes each would be too much
    with pytest.raises(ShimError, match="of 6 B beside 5 B of others") as refused:
        commit(store, size=6)
    assert cut.exists() and refused.value.hint.endswith(f" of ended jobs; {cut.parent} may go, too")
    with pytest.raises(ShimError, match="of 3 B beside 8 B of others") as refused:
        commit(Store(str(tmp_path), "8/0.0", quota=10))
    assert refused.value.hint.endswith("; job 7 has the most, 8 B")


def test_an_early_write_that_failed_is_not_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def broken(*_: int) -> None:
        tried.set()
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("oci_criu_shim.host.linux.begin_writing", broken)
    with store.stage() as stage:
        manifest = fill(stage)
        assert tried.wait(60)
        stage.commit(manifest)
    assert newest(store).seq == 1


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
    assert damage(store) == f"{path} has 2 bytes, not 3"


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
    swept = {f".stage.{host}.{alive}.1", f".stage.{host}.{1 << 23}.1", ".gone.1.elsewhere.1"}
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
    names = (path, path + "/checkpoint", store.path, os.path.dirname(store.path))
    assert [os.stat(name).st_mode & 0o777 for name in names] == [0o700] * 4


def test_a_newer_version_is_named(store: Store) -> None:
    path = Path(commit(store).path, "manifest.json")
    path.write_text(path.read_text().replace('"version": 1', '"version": 3'))
    assert damage(store) == f"{path} is of version 3, and this oci-criu-shim reads up to version 2"


def test_somebody_elses_checkpoint_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path, owner = commit(store).path, os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert damage(store) == f"{path} belongs to user {process.user_name(owner)}"


@pytest.mark.parametrize("make", [lambda path: os.symlink("/etc/passwd", path), os.mkfifo, os.mkdir])
def test_what_is_no_file_is_named(store: Store, make: Callable[[str], None]) -> None:
    path = commit(store).images + "/core-1.img"
    os.unlink(path)
    make(path)
    assert damage(store) == f"{path} is not a file"


def test_every_damage_to_a_manifest_is_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oci_criu_shim.schema.faults", lambda document, _: [] if "version" in document else ["damaged"])
    path = Path(commit(store).path, "manifest.json")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 7]) + whole[place + 1 :])
        try:
            found = committed.read(os.path.dirname(path))
        except (ShimError, KeyError):
            continue
        assert json.loads(path.read_bytes()) == found.manifest == json.loads(whole)


def test_a_job_of_another_cluster(tmp_path: Path) -> None:
    first, again = Store(str(tmp_path), "7/0.0"), Store(str(tmp_path), "7/1.0")
    first.prepare("red")
    again.prepare("red")
    for other in (first, again, Store(str(tmp_path), "7/2.0")):
        with pytest.raises(ShimError, match=f"{tmp_path}/7 has .* of cluster 'red', and this is 'blue'"):
            other.prepare("blue")
    assert sorted(os.listdir(tmp_path / "7")) == ["0.0", "1.0", "cluster"]
    first.clear()
    again.clear()
    assert os.listdir(tmp_path) == []
    first.prepare()  # by a version that did not ask
    first.prepare("blue")
    with pytest.raises(ShimError):
        first.prepare("red")


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match="none: No such file"):
        Store(str(tmp_path / "none"), "7/0.0").prepare()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ShimError, match="is not a directory"):
        owner.check(str(tmp_path / "file"))


def test_somebody_elses_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ShimError, match=f"belongs to user {process.user_name(owner)}"):
        Store(str(tmp_path), "7/0.0").prepare()
