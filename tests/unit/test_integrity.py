"""Checksums: taken when the container has ended, and compared before it runs again."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import xxhash

from oci_criu_shim.checkpoints import integrity
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.checkpoints.integrity import Hashing, Pieces, Verification, checksums
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.errors import Damaged
from tests.unit.test_schema import full_manifest

PAGES = bytes(range(256)) * 40
RAW, OTHER = "checkpoint/pages-1.img", "checkpoint/pages-2.img"


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "LARGE", 1000)
    monkeypatch.setattr(integrity, "PIECE", 4000)
    monkeypatch.setattr(integrity, "BUFFER", 999)


@pytest.fixture(params=["sha256", "xxh3"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By which a node takes checksums: one without xxhash, and one with it."""
    if request.param == "sha256":
        forget(monkeypatch)
    return str(request.param)


@pytest.fixture
def checkpoint(tmp_path: Path, kind: str) -> Checkpoint:
    return commit(tmp_path)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a node without xxhash."""
    monkeypatch.setitem(sys.modules, "xxhash", None)


def commit(directory: Path) -> Checkpoint:
    store = Store(str(directory), ".")
    with store.stage() as stage:
        Path(stage.images, "pages-1.img").write_bytes(PAGES)
        Path(stage.images, "core-1.img").write_bytes(b"core")
        stage.write("spec.dump", {})
        made = stage.commit(full_manifest() | {"files": stage.sizes()})
        assert not checksums(made)
    return made


def sums(kind: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if kind == "sha256" else xxhash.xxh3_128(data).hexdigest()


def pieces(kind: str) -> list[str]:
    return [sums(kind, PAGES[begin : begin + 4000]) for begin in (0, 4000, 8000)]


def verified(checkpoint: Checkpoint) -> str:
    verification = Verification(checkpoint)
    verification.start()
    verification.require()
    return verification.gap


def flip(path: str, place: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 4]))


def test_every_file_has_one(checkpoint: Checkpoint, kind: str) -> None:
    known = {"checkpoint/core-1.img": [sums("sha256", b"core")], "spec.dump": [sums("sha256", b"{}")]}
    assert checkpoint.manifest["sha256"] == known
    assert checksums(checkpoint) == {RAW: (kind, pieces(kind))}


def test_older_versions_find_none_of_a_kind_that_they_do_not_know(checkpoint: Checkpoint, kind: str) -> None:
    """They want the key of SHA-256 to be there, or the checkpoint is damaged."""
    found: dict[str, Any] = json.loads(Path(checkpoint.path, "checksums.json").read_text())
    assert found == sealed(found)
    assert found["sha256"] == ({RAW: pieces(kind)} if kind == "sha256" else {})


@pytest.mark.parametrize("two", [("sha256", "sha256"), ("xxh3", "xxh3"), ("sha256", "xxh3")])
def test_documents(tmp_path: Path, two: tuple[str, str]) -> None:
    """Older versions wrote SHA-256 alone."""
    made = commit(tmp_path)
    named: dict[str, dict[str, list[str]]] = {kind: {} for kind in two}
    for name, kind in zip((RAW, OTHER), two, strict=True):
        named[kind][name] = pieces(kind)
    Path(made.path, OTHER).write_bytes(PAGES)
    made.manifest["files"][OTHER] = len(PAGES)
    Path(made.path, "checksums.json").write_text(json.dumps(sealed({"piece": integrity.PIECE, **named})))
    for name in (RAW, OTHER):
        assert verified(made) == ""
        flip(path := f"{made.path}/{name}", 5000)
        with pytest.raises(Damaged, match=f"{path} is damaged: its checksum is not what it was"):
            verified(made)
        flip(path, 5000)


def test_without_xxhash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what can be compared is compared."""
    made = commit(tmp_path)
    forget(monkeypatch)
    flip(f"{made.path}/{RAW}", 7)
    verification = Verification(made)
    verification.follow(RAW, [PAGES])
    assert not verification.followed
    assert verified(made) == "the checksums of its memory need python3-xxhash, which is missing here"
    flip(f"{made.images}/core-1.img", 2)
    with pytest.raises(Damaged, match=r"core-1.img is damaged"):
        Verification(made)


def test_checksums_of_other_kinds_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = commit(tmp_path)
    Path(made.path, OTHER).write_bytes(PAGES)
    made.manifest["files"][OTHER] = len(PAGES)
    with monkeypatch.context() as patch:
        forget(patch)
        integrity.add_checksums(made)
    assert checksums(made) == {RAW: ("xxh3", pieces("xxh3")), OTHER: ("sha256", pieces("sha256"))}
    assert verified(made) == ""


@pytest.mark.parametrize("size", [1, 999, 4000, 4001, len(PAGES)])
def test_pieces(kind: str, size: int) -> None:
    """However the bytes come."""
    taken = Pieces(kind)
    for begin in range(0, len(PAGES), size):
        taken.update(PAGES[begin : begin + size])
    assert taken.result() == (kind, pieces(kind))
    assert Pieces(kind).result() == (kind, [sums(kind, b"")])


def test_followed(checkpoint: Checkpoint) -> None:
    verification = Verification(checkpoint)
    verification.follow(RAW, iter([PAGES[:5000], PAGES[5000:]]))
    verification.follow("spec.dump", [b"it was verified before"])
    assert verification.followed == {RAW}
    with pytest.raises(Damaged, match=f"{checkpoint.path}/{RAW} is damaged: its checksum is not what it was"):
        verification.follow(RAW, [PAGES[:-1]])


def test_whole(checkpoint: Checkpoint) -> None:
    verification = Verification(checkpoint)
    verification.start()
    verification.require()
    verification.require()
    assert not verification.gap


def test_not_verified(checkpoint: Checkpoint) -> None:
    os.unlink(f"{checkpoint.path}/checksums.json")
    flip(checkpoint.images + "/pages-1.img", 7)
    assert verified(checkpoint) == "it has no checksums of its memory"


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
    assert Verification(made).gap


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


def test_empty(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").touch()
    assert Hashing(str(tmp_path), {"empty": 0}).result() == {"empty": (kind, [sums(kind, b"")])}


def test_none() -> None:
    assert Hashing("/", {}).result() == {}
