"""When a checkpoint has a layer, and how it is taken beside a dump."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from oci_criu_shim import files
from oci_criu_shim.checkpoints import baseline
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import Container
from oci_criu_shim.dump import rootfs
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import mounts
from oci_criu_shim.log import Log
from oci_criu_shim.restore.rootfs import put_back
from tests.unit.test_schema import full_manifest

LINE = "1 0 8:1 / / rw - {} /dev/x rw"


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """What begin() has in the background."""
    yield
    with suppress(ChildProcessError):
        while True:
            os.wait()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/deleted").touch()
    return Bundle(str(tmp_path), {"root": {"path": "rootfs"}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path), "7/batch.0")
    os.makedirs(made.path)
    return made


def test_marks_are_noted_in_the_background(bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "_are_wanted", lambda *_: True)
    rootfs.begin(store, bundle, "auto", Log())
    assert os.wait()[1] == 0
    known = baseline.find(store.path, bundle.rootfs)
    assert known and known.is_same("", "deleted", os.stat(f"{bundle.rootfs}/deleted"))
    assert not known.is_same("", "deleted", os.stat(bundle.rootfs))


@pytest.mark.parametrize(
    ("kind", "setting", "wanted"),
    [
        ("ext4", "auto", True),
        ("ext4", "never", False),
        ("nfs4", "auto", False),
        ("nfs4", "always", True),
        ("fuse.sshfs", "auto", False),
        ("overlay", "auto", True),
    ],
)
def test_where_they_are_wanted(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch, kind: str, setting: str, wanted: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounts, "read", lambda: mounts.parse(LINE.format(kind)))
    rootfs.begin(store, bundle, setting, Log())
    assert bool(os.listdir(store.path)) == wanted


@pytest.mark.parametrize(("uid", "readonly"), [(0, False), (1000, True)])
def test_where_there_is_nothing_to_keep(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch, uid: int, readonly: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    bundle.config["root"]["readonly"] = readonly
    rootfs.begin(store, bundle, "always", Log())
    assert os.listdir(store.path) == []


def taken(store: Store, bundle: Bundle, container: Container, frozen: bool) -> tuple[Stage, int]:
    stage = store.stage()
    taking = rootfs.take(container, bundle, os.getpid(), stage)
    assert taking
    if frozen:
        Path(stage.images, "files.img").touch()
    left_out = taking.finish()
    taking.stop()
    return stage, left_out


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container(str(tmp_path / "run"), "c")
    os.makedirs(made.directory)
    return made


@pytest.mark.parametrize("frozen", [True, False])
def test_taken_and_put_back(
    bundle: Bundle, store: Store, container: Container, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    monkeypatch.setattr(rootfs, "_are_wanted", lambda *_: True)
    rootfs.begin(store, bundle, "auto", Log())
    root = Path(bundle.rootfs)
    (root / "deleted").unlink()
    (root / "made").write_text("made")
    stage, left_out = taken(store, bundle, container, frozen)
    assert left_out == 0
    assert {"rootfs-diff.tar", "deleted.files"} <= stage.sizes().keys()
    (root / "made").unlink()
    checkpoint = Checkpoint(stage.path, full_manifest())
    put_back(checkpoint, container, bundle)
    assert [path.name for path in root.iterdir()] == ["made"]
    assert files.read_json(container.path("layer")) == [[".", "made"], ["deleted"]]
    root.rename(root.with_name("aside"))
    with pytest.raises(Misfit):
        put_back(checkpoint, container, bundle)


def test_none_where_nothing_was_noted(bundle: Bundle, store: Store, container: Container) -> None:
    assert rootfs.take(container, bundle, os.getpid(), store.stage()) is None


def test_what_cannot_be_noted_is_said(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The job is none the worse for it on this node."""
    monkeypatch.setattr(rootfs, "_are_wanted", lambda *_: True)
    os.rmdir(store.path)
    rootfs.begin(store, bundle, "auto", Log())
    assert "checkpoints will be without what is changed in" in capfd.readouterr().err


def test_what_went_wrong(bundle: Bundle, store: Store, container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "_are_wanted", lambda *_: True)
    rootfs.begin(store, bundle, "auto", Log())
    stage = store.stage()
    Path(stage.path, "rootfs-diff.tar").touch()
    taking = rootfs.take(container, bundle, os.getpid(), stage)
    assert taking
    with pytest.raises(ShimError, match=r"what has changed in .*/rootfs can't be kept: File exists"):
        taking.finish()
    taking.stop()


def test_stopped(bundle: Bundle, store: Store, container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waiting for the dump."""
    monkeypatch.setattr(rootfs, "_are_wanted", lambda *_: True)
    rootfs.begin(store, bundle, "auto", Log())
    stage = store.stage()
    taking = rootfs.take(container, bundle, os.getpid(), stage)
    assert taking
    taking.stop()
    assert "rootfs-diff.tar" not in stage.sizes()
