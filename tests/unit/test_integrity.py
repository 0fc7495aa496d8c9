"""Checksums: taken when the container has ended, and compared before it runs again."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints import integrity
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.integrity import Hashing, Verification, checksums
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.errors import Damaged
from tests.unit.test_schema import full_manifest

PAGES = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "LARGE", 1000)
    monkeypatch.setattr(integrity, "PIECE", 4000)
    monkeypatch.setattr(integrity, "BUFFER", 999)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    store = Store(str(tmp_path), ".")
    with store.stage() as stage:
        Path(stage.images, "pages-1.img").write_bytes(PAGES)
        Path(stage.images, "core-1.img").write_bytes(b"core")
        stage.write("spec.dump", {})
        made = stage.commit(full_manifest() | {"files": stage.sizes()})
        assert not checksums(made)
    return made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def flip(path: str, place: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 4]))


def test_every_file_has_one(checkpoint: Checkpoint) -> None:
    assert checkpoint.manifest["sha256"] == {"checkpoint/core-1.img": [sha256(b"core")], "spec.dump": [sha256(b"{}")]}
    pieces = [PAGES[:4000], PAGES[4000:8000], PAGES[8000:]]
    assert checksums(checkpoint) == {"checkpoint/pages-1.img": [sha256(piece) for piece in pieces]}


def test_whole(checkpoint: Checkpoint) -> None:
    verification = Verification(checkpoint)
    verification.start()
    verification.require()
    verification.require()
    assert verification.complete


def test_not_verified(checkpoint: Checkpoint) -> None:
    os.unlink(f"{checkpoint.path}/checksums.json")
    flip(checkpoint.images + "/pages-1.img", 7)
    verification = Verification(checkpoint)
    verification.start()
    verification.require()
    assert not verification.complete


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": []}', '{"sha256": {}, "checksum": "0"}'])
def test_damaged_checksums(checkpoint: Checkpoint, text: str) -> None:
    Path(checkpoint.path, "checksums.json").write_text(text)
    with pytest.raises(Damaged, match=r"checksums.json is damaged: "):
        Verification(checkpoint)


def test_checksums_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), ".")
    with store.stage() as stage:
        Path(stage.images, "pages-1.img").write_bytes(PAGES)
        made = stage.commit(full_manifest() | {"files": stage.sizes()})
        monkeypatch.setattr("oci_criu_shim.files.write_json", full)
    assert [found.path for found in store.newest_first() if isinstance(found, Checkpoint)] == [made.path]
    assert not Verification(made).complete


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_small_files_are_verified_at_once(checkpoint: Checkpoint) -> None:
    flip(checkpoint.images + "/core-1.img", 2)
    with pytest.raises(Damaged, match=f"{checkpoint.path}/checkpoint/core-1.img is damaged"):
        Verification(checkpoint)


@pytest.mark.parametrize("place", [0, 4000, 5000, len(PAGES) - 1])
def test_large_files_are_verified_before_anything_runs(checkpoint: Checkpoint, place: int) -> None:
    flip(checkpoint.images + "/pages-1.img", place)
    verification = Verification(checkpoint)
    verification.start()
    with pytest.raises(Damaged, match=r"checkpoint/pages-1.img is damaged: its checksum is not what"):
        verification.require()


def test_a_file_that_is_gone_is_named(checkpoint: Checkpoint) -> None:
    os.unlink(checkpoint.images + "/pages-1.img")
    verification = Verification(checkpoint)
    verification.start()
    with pytest.raises(Damaged, match=r"pages-1.img: No such file"):
        verification.require()


def test_stopped_early(checkpoint: Checkpoint) -> None:
    before = threading.active_count()
    verification = Verification(checkpoint)
    verification.stop()
    verification.start()
    verification.stop()
    assert threading.active_count() == before


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        Hashing(str(tmp_path), {"directory": 1}).result()


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert Hashing(str(tmp_path), {"empty": 0}).result() == {"empty": [sha256(b"")]}


def test_none() -> None:
    assert Hashing("/", {}).result() == {}
