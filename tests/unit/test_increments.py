"""Checkpoints that share their parents' images: what is linked, counted, compressed, copied."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints import archive, increments, integrity, quota, unpacking
from oci_criu_shim.checkpoints.committed import Checkpoint, has_place, read
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.store import Store
from tests.unit.compressed import NOISE, PAGES, contents, left, make_small, make_store, newest, verified
from tests.unit.test_schema import full_manifest

IMAGES = ("pages-1", "pagemap-1", "pagemap-shmem-9", "inventory", "core-1")
SHARED = {"pages-1.img", "pagemap-1.img", "inventory.img"}


def commit(store: Store, parent: Checkpoint | None = None, pages: bytes = PAGES) -> Checkpoint:
    with store.stage() as stage:
        if parent:
            increments.link(parent, stage)
        for name in IMAGES:
            Path(stage.images, f"{name}.img").write_bytes(pages if name == "pages-1" else name.encode())
        sizes = stage.sizes()
        return stage.commit(full_manifest(files=sizes, bytes=sum(sizes.values()), frozen_seconds=100))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    make_small(monkeypatch, tmp_path / "node")
    made = make_store(tmp_path / "store")
    made.made = [None]
    return made


def test_its_parent_can_go(store: Store) -> None:
    first = commit(store)
    second = commit(store, first, NOISE)
    third = commit(store, second, b"little")
    below = {path.relative_to(third.images).as_posix() for path in Path(third.images, "parent").rglob("*.img")}
    assert below == {f"{place}/{name}" for place in ("parent", "parent/parent") for name in SHARED}
    assert os.path.samefile(f"{first.images}/pages-1.img", f"{third.images}/parent/parent/pages-1.img")
    for number in (1, 2):
        store.remove(number)
    found = newest(store)
    assert (found.seq, found.parent, found.dumped) == (3, 2, found.written)
    assert found.written == sum(len(name) for name in IMAGES[1:]) + len(b"little")
    assert Path(found.images, "parent/parent/pages-1.img").read_bytes() == PAGES
    assert verified(found)


def test_checksums_of_what_is_shared_are_not_taken_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = commit(store)
    hashed: list[str] = []
    original = integrity.Hashing

    def noting(directory: str, sizes: dict[str, int], *wanted: dict[str, str]) -> object:
        hashed.extend(sizes)
        return original(directory, sizes, *wanted)

    monkeypatch.setattr("oci_criu_shim.checkpoints.integrity.Hashing", noting)
    second = commit(store, first, NOISE)
    assert "checkpoint/pages-1.img" in hashed and "checkpoint/parent/pages-1.img" not in hashed
    monkeypatch.undo()
    assert verified(second)


def test_checksums_of_what_is_shared_stay_of_their_kind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "xxhash", None)
        first = commit(store)
    second = commit(store, first, NOISE)
    kinds = {name: kind for name, (kind, _) in integrity.checksums(second).items()}
    assert kinds == {"checkpoint/parent/pages-1.img": "sha256", "checkpoint/pages-1.img": "xxh3"}
    assert verified(second)


def test_what_is_shared_counts_once(store: Store) -> None:
    first = commit(store)
    second = commit(store, first, NOISE)
    assert second.manifest["bytes"] > second.written
    assert quota.used(store.directory, 1) == first.manifest["bytes"] + second.written


def test_a_damaged_one_says_which_file(store: Store) -> None:
    found = commit(store, commit(store))
    Path(found.images, "parent/pages-1.img").write_bytes(bytes(len(PAGES)))
    with pytest.raises(Exception, match=r"checkpoint/parent/pages-1.img is damaged"):
        verified(found)


def test_a_whole_one_after_some(store: Store) -> None:
    found = commit(store)
    for number in range(increments.MOST):
        assert increments.may_follow(found), number
        found = commit(store, found, b"little")
    assert not increments.may_follow(found)
    assert increments.may_follow(commit(store))


def test_a_whole_one_when_increments_outweigh_it(store: Store) -> None:
    found = commit(store)
    half = bytes(len(PAGES) // 2)
    found = commit(store, found, half)
    assert increments.may_follow(found)
    assert not increments.may_follow(commit(store, found, half + half))


def test_without_hard_links(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = commit(store)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    with store.stage() as stage:
        with pytest.raises(OSError, match="not permitted"):
            increments.link(first, stage)
        assert (stage.sizes(), stage.about) == ({}, {})


def test_compressed(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    compression = make_store(tmp_path / "other", said).compression
    assert compression
    first = commit(store)
    assert compression.apply(first, str(tmp_path / "work"))
    second = commit(store, read(first.path), PAGES[::-1])
    assert set(second.manifest["compressed"]) == {"checkpoint/parent/pages-1.img.zst"}
    assert compression.apply(second, str(tmp_path / "work2")), said
    assert not compression.apply(read(second.path), str(tmp_path / "work3"))
    third = read(commit(store, read(second.path), NOISE).path)
    places = [f"checkpoint{'/parent' * depth}/pages-1.img" for depth in range(3)]
    assert set(third.manifest["compressed"]) == {f"{name}.zst" for name in places[1:]}
    assert third.sizes[f"{places[1]}.zst"] == len(PAGES)
    assert verified(third)
    with unpacking.Unpacked(Verification(third)) as raw:
        found = contents(raw)
        assert [found[name] for name in places] == [NOISE, PAGES[::-1], PAGES]


def test_to_an_archive_and_back(store: Store, tmp_path: Path) -> None:
    found = commit(store, commit(store), NOISE)
    archive.write(found, str(tmp_path / "one.tar"), {}, lambda _: None)
    other = make_store(tmp_path / "other")
    with other.stage() as stage:
        archive.read(str(tmp_path / "one.tar"), stage, lambda _: None)
        archive.adopt(str(tmp_path / "one.tar"), stage)
    assert contents(newest(other)) == contents(found)
    assert {"1/checkpoint/parent/pages-1.img", "1/manifest.json"} <= left(other)


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("checkpoint/parent/parent/pages-1.img", True),
        ("checkpoint/parent", False),
        ("checkpoint/other/pages-1.img", False),
        ("checkpoint/parent/../../../x", False),
        ("parent/pages-1.img", False),
    ],
)
def test_places(name: str, has: bool) -> None:
    assert has_place(name) == has
