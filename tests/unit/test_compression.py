"""Compressed checkpoints: what they were before, whoever is killed, damages them, or reads meanwhile."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import files
from oci_criu_shim.checkpoints import archive, codec, committed, compression, document, unpacking
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.compression import Compression, LateError, Pace
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.quota import used
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.checkpoints.unpacking import Unpacked, complete
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from tests.unit.compressed import (
    COMPRESSED,
    FRAME,
    IMAGES,
    PACKED,
    PAGES,
    RAW,
    WHOLE,
    ZSTD,
    commit,
    contents,
    left,
    make_small,
    make_store,
    newest,
    verified,
)
from tests.unit.test_schema import full_manifest


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_small(monkeypatch, tmp_path / "node")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return make_store(tmp_path / "store", said)


def test_a_library_that_is_missing(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec.MODULES, "zstd", "no_such_module")
    made = commit(store)
    assert "compressed" not in made.manifest
    assert verified(made)
    assert "no zstd on this node" in said[0]


def test_memory_is_compressed(store: Store) -> None:
    made = commit(store)
    assert left(store) == COMPRESSED
    found = newest(store)
    assert found.manifest == made.manifest
    assert found.manifest["version"] == committed.COMPRESSED > full_manifest()["version"]  # others can't read it
    assert found.manifest["compressed"] == {PACKED: {"codec": "zstd", "size": len(PAGES), "frame": FRAME}}
    assert found.manifest["bytes"] == sum(found.manifest["files"].values()) < found.dumped
    assert used(store.directory, 1) == found.manifest["bytes"]
    assert verified(found)


def test_off(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "off"), ".")
    os.mkdir(store.directory, 0o700)
    made = commit(store)
    assert (left(store), made.dumped) == (WHOLE | IMAGES, made.manifest["bytes"])


def test_nothing_worth_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "WORTH", 0.0)
    assert "compressed" not in commit(store).manifest
    assert left(store) == WHOLE | IMAGES
    assert verified(newest(store))


def test_the_commit_comes_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a grace time every second counts until then: it is raw, and large files have no checksums yet."""
    seen: list[set[str]] = []
    apply = Compression.apply

    def applied(self: Compression, checkpoint: Checkpoint, stage: str) -> bool:
        seen.append({name for name in left(store) if name.startswith("1/")})
        return apply(self, checkpoint, stage)

    monkeypatch.setattr(Compression, "apply", applied)
    commit(store, reason="preempt")
    assert seen == [WHOLE - {"1/checksums.json"} | IMAGES]
    assert left(store) == COMPRESSED


def test_what_runs_on_is_compressed_later(store: Store) -> None:
    made = commit(store, reason="interval")
    assert left(store) == WHOLE | IMAGES
    assert store.compression
    stage = store.stage_path()
    assert store.compression.apply(newest(store), stage)
    os.rmdir(f"{stage}/checkpoint")
    os.rmdir(stage)
    assert left(store) == COMPRESSED
    assert verified(newest(store))
    assert made.manifest["files"] == unpacking.raw_manifest(newest(store).manifest)["files"]


def test_no_time(tmp_path: Path, said: list[str]) -> None:
    store = make_store(tmp_path / "late", said, 0)
    made = commit(store)
    assert "can't be compressed within 0.0 s" in said[0]
    assert left(store) == WHOLE | IMAGES
    assert verified(made)


def test_time_for_what_runs_on_is_not_bounded(said: list[str]) -> None:
    packing = Compression(ZSTD, lambda: 0.0, said.append)
    assert packing._limit(full_manifest(reason="interval", frozen_seconds=1)) == float("inf")
    slow = Compression(ZSTD, lambda: 9.0, said.append)
    limits = [slow._limit(full_manifest(reason="timeout", frozen_seconds=frozen)) for frozen in (0, 1, 60)]
    assert limits == [compression.SHORTEST, 4.0, 4.5]


def test_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(10, 1000)
    now[0] += 1.9
    pace.tell(10)  # it is slow, but it has only begun
    now[0] += 3.0
    pace.tell(490)
    now[0] += 0.2
    with pytest.raises(LateError):
        pace.tell(1)


@pytest.mark.parametrize("name", ["open", "write", "json"])
def test_a_full_disk(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def full_for_manifests(path: str, document: Any, **options: Any) -> None:
        if path.endswith("/1/manifest.json"):
            full()
        write_json(path, document, **options)

    write_json = files.write_json
    target = {
        "open": ("oci_criu_shim.checkpoints.codec.pack", full),
        "write": ("oci_criu_shim.checkpoints.integrity.write_checksums", full),
        "json": ("oci_criu_shim.files.write_json", full_for_manifests),
    }[name]
    monkeypatch.setattr(*target)
    made = commit(store)
    monkeypatch.undo()
    assert "No space left on device" in said[0]
    assert left(store) >= IMAGES
    assert left(store) <= WHOLE | IMAGES
    verified(newest(store))
    assert contents(newest(store))[RAW] == PAGES
    assert made.manifest == newest(store).manifest


def test_what_was_removed_meanwhile(store: Store, said: list[str]) -> None:
    made = commit(store, reason="interval")
    store.remove(made.seq)
    assert store.compression
    assert not store.compression.apply(made, store.stage_path())
    assert "No such file" in said[0]


def run(directory: Path, number: int) -> int:
    """Compress a checkpoint in a process that is killed before the call of that number: how many there were, or minus
    SIGKILL."""
    store = make_store(directory)
    made = commit(store, reason="interval")
    rest = [number]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if rest[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            rest[0] -= 1
            return real(*args, **options)

        return call

    def compress() -> int:
        for name in ("rename", "unlink", "fsync", "open", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        assert store.compression
        assert store.compression.apply(made, store.stage_path())
        return number - rest[0]

    return process.wait(process.fork(compress))


def test_killed_at_any_moment(tmp_path: Path) -> None:
    steps = run(tmp_path / "whole", 1000)
    assert steps > 10
    kinds = set()
    for number in range(steps):
        directory = tmp_path / str(number)
        assert run(directory, number) == -signal.SIGKILL
        store = Store(str(directory), ".")
        found = newest(store)
        assert verified(found) or "compressed" not in found.manifest
        with Unpacked(Verification(found)) as raw:
            assert contents(raw)[RAW] == PAGES
        store.prepare()
        kinds.add("compressed" in found.manifest)
        assert left(store) == (COMPRESSED if "compressed" in found.manifest else WHOLE | IMAGES), number
        assert newest(store).manifest == found.manifest
    assert kinds == {False, True}


def flip(path: str, place: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[place] ^= 1
    Path(path).write_bytes(data)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_damage_is_named(store: Store, place: int) -> None:
    made = commit(store)
    flip(f"{made.path}/{PACKED}", place)
    with pytest.raises(ShimError, match=f"{made.path}/{PACKED} is damaged: its checksum is not what it was"):
        verified(made)


def test_damage_is_named_where_it_is_unpacked(store: Store) -> None:
    made = commit(store)
    flip(f"{made.path}/{PACKED}", -1)
    with (
        pytest.raises(ShimError, match=f"{made.path}/{PACKED} is damaged: it can't be unpacked"),
        Unpacked(Verification(made)),
    ):
        pass


def test_a_reader_of_the_old_manifest_tries_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, reason="interval")
    real = committed._read_manifest
    late: list[bool] = []

    def slow(path: str) -> Checkpoint:
        found = real(path)
        if not late:
            late.append(True)
            assert store.compression
            store.compression.apply(real(path), store.stage_path())
        return found

    monkeypatch.setattr(committed, "_read_manifest", slow)
    assert "compressed" in newest(store).manifest


def test_steadily(store: Store) -> None:
    made = commit(store, reason="interval")
    seen: list[bool] = []

    def use(found: Checkpoint) -> bytes:
        seen.append("compressed" in found.manifest)
        if store.compression and not seen[-1]:
            store.compression.apply(committed.read(found.path), store.stage_path())
        with Unpacked(Verification(found)) as raw:
            assert verified(found)
            return contents(raw)[RAW]

    assert committed.steadily(made, use) == PAGES
    assert seen == [False, True]


def test_steadily_is_no_loop(store: Store) -> None:
    made, seen = commit(store), []

    def use(found: Checkpoint) -> None:
        seen.append(found)
        raise ShimError("no")

    with pytest.raises(ShimError, match="no"):
        committed.steadily(made, use)
    assert seen == [made]


def test_readers_meanwhile(store: Store) -> None:
    """Readers who never stop see one whole checkpoint or the other."""
    made = commit(store, reason="interval")
    over, wrong = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            try:
                committed.steadily(committed.read(made.path), verified)
            except ShimError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert store.compression
    store.compression.apply(committed.read(made.path), store.stage_path())
    time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_archives_are_raw(store: Store, tmp_path: Path) -> None:
    made = commit(store)
    path = str(tmp_path / "a.tar")
    with Unpacked(Verification(made)) as raw:
        complete(raw)
        archive.write(raw, path, {}, lambda _: None)
    with tarfile.open(path) as tar:
        members = tar.getnames()
        stream = tar.extractfile(RAW)
        assert stream
        assert stream.read() == PAGES
        manifest = tar.extractfile("manifest.json")
        assert manifest
        found = json.load(manifest)
        assert found["version"] == committed.RAW and "compressed" not in found
    assert PACKED not in members
    imported = Store(str(tmp_path / "imported"), ".")
    os.mkdir(imported.directory, 0o700)
    with imported.stage() as stage:
        archive.read(path, stage, lambda _: None)
        assert verified(archive.adopt(path, stage))


def test_sweep_leaves_what_it_does_not_know(store: Store) -> None:
    made = commit(store)
    Path(made.images, "stray.img.lz4").touch()
    Path(made.images, "note.txt").touch()
    compression.sweep(made.path)
    assert left(store) == COMPRESSED | {"1/checkpoint/note.txt"}


Change = Callable[[Any], object]


@pytest.mark.parametrize("change", [lambda about: about.pop("size"), lambda about: about.update(codec="gzip")])
def test_manifests_that_are_wrong(store: Store, change: Change) -> None:
    made = commit(store)
    change(made.manifest["compressed"][PACKED])
    path = Path(made.path, "manifest.json")
    path.write_text(json.dumps(document.sealed(made.manifest)))
    with pytest.raises(ShimError, match="is not a manifest this version reads"):
        committed.read(made.path)
