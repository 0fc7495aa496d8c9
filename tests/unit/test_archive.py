"""Archives in podman's layout: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints import archive, integrity
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.checkpoints.tree import Tree
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from tests.unit.test_schema import full_manifest

SUFFIXES = [suffix for suffix, argv in archive.COMPRESSORS.items() if not argv or process.find(argv[0])]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr(integrity, "LARGE", 1000)
    store = Store(str(tmp_path), "7/batch.0")
    store.prepare()
    with store.stage() as stage:
        Path(stage.images, "pages-1.img").write_bytes(os.urandom(5000))
        Path(stage.images, "core-1.img").write_bytes(b"core")
        stage.describe({}, {"id": "c"}, [], b"#!/bin/sh")
        Path(stage.path, "rootfs-diff.tar").write_bytes(b"layer")
        stage.write("deleted.files", ["a"])
        made = stage.commit(full_manifest() | {"files": stage.sizes()})
    Path(made.images, "dump.log").write_text("log")
    return made


@pytest.fixture
def target(tmp_path: Path) -> Store:
    store = Store(str(tmp_path), "imported")
    store.prepare()
    return store


def contents(path: str) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


def told(_: int) -> None:
    """Nobody looks."""


def read(path: str, store: Store) -> Checkpoint:
    with store.stage() as stage:
        archive.read(path, stage, told)
        return archive.adopt(path, stage)


def test_to_and_fro(checkpoint: Checkpoint, target: Store, tmp_path: Path) -> None:
    for number, suffix in enumerate(SUFFIXES, 1):
        path = f"{tmp_path}/file{suffix}"
        archive.write(checkpoint, path, {}, told)
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert read(path, target).path == f"{target.path}/{number}"
        assert contents(f"{target.path}/{number}") == contents(checkpoint.path)
    assert len(SUFFIXES) > 1


def test_podmans_layout(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = f"{tmp_path}/file.tar"
    archive.write(checkpoint, path, {}, told)
    with tarfile.open(path) as written:
        assert set(written.getnames()) == {
            *("checkpoint", "checkpoint/pages-1.img", "checkpoint/core-1.img", "dump.log"),
            *("artifacts/config.dump", "artifacts/spec.dump", "manifest.json", "checksums.json"),
            *("artifacts/startup", "artifacts/rootfs-diff.tar", "artifacts/deleted.files"),
        }


def test_what_is_podmans_alone_is_left_out(checkpoint: Checkpoint, target: Store, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    additions = {
        **{"config.dump": b"{}", "spec.dump": b"podman's", "checkpoint/manifest.json": b"{}"},
        **{"artifacts/spool": None, "artifacts/stdout": b""},
        "rootfs-diff.tar": Tree(str(tmp_path / "root"), {}),
    }
    path = f"{tmp_path}/file.tar"
    archive.write(checkpoint, path, additions, told)
    with tarfile.open(path) as written:
        found = {name: written.getmember(name) for name in ("config.dump", "artifacts/stdout", "artifacts/spool")}
        assert additions.keys() < set(written.getnames())
    owners = [(member.uid, member.mode) for member in found.values()]
    assert owners == [(0, 0o700), (os.geteuid(), 0o700), (os.geteuid(), 0o700)]
    assert contents(read(path, target).path) == contents(checkpoint.path)


@pytest.mark.parametrize(
    ("name", "said"), [("file.zip", "is not named as an archive"), ("none/file.tar", "none is not a directory")]
)
def test_where_it_cannot_be_written(checkpoint: Checkpoint, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ShimError, match=said):
        archive.write(checkpoint, f"{tmp_path}/{name}", {}, told)


def test_nothing_is_overwritten(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file.tar").write_text("precious")
    with pytest.raises(ShimError, match=r"file.tar exists"):
        archive.write(checkpoint, f"{tmp_path}/file.tar", {}, told)
    assert (tmp_path / "file.tar").read_text() == "precious"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_no_archive(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    before = set(os.listdir(tmp_path))
    full = os.open("/dev/full", os.O_WRONLY)

    def opened(path: str, *_: object) -> int:
        os.mknod(path)
        return os.dup(full)

    with monkeypatch.context() as patch:
        patch.setattr("oci_criu_shim.checkpoints.archive.os.open", opened)
        with pytest.raises((OSError, ShimError), match=r"No space left|ended with \d+"):
            archive.write(checkpoint, f"{tmp_path}/file{suffix}", {}, told)
    os.close(full)
    assert set(os.listdir(tmp_path)) == before


def test_a_missing_compressor(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATH", "/nonexistent")
    with pytest.raises(ShimError, match="there is no gzip"):
        archive.write(checkpoint, f"{tmp_path}/file.tar.gz", {}, told)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


HOSTILE = [
    member("/etc/evil"),
    member("../evil"),
    member("checkpoint/../../evil"),
    member("checkpoint/inner/evil"),
    member("checkpoint/.."),
    member("checkpoint/"),
    member("network.status"),
    member("artifacts/../evil"),
    member("evil", tarfile.DIRTYPE),
    member("checkpoint/link", tarfile.SYMTYPE, "/etc/passwd"),
    member("checkpoint/link", tarfile.LNKTYPE, "/etc/passwd"),
    member("checkpoint/device", tarfile.CHRTYPE),
    member("checkpoint/fifo", tarfile.FIFOTYPE),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda found: f"{found.name}-{found.type.decode()}")
def test_hostile_members(checkpoint: Checkpoint, target: Store, tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    path = f"{tmp_path}/file.tar"
    archive.write(checkpoint, path, {}, told)
    with tarfile.open(path, "a") as written:
        written.addfile(hostile, io.BytesIO())
    before = set(tmp_path.parent.rglob("*"))
    with pytest.raises(ShimError, match=r"has no place in a checkpoint|is not a plain file"):
        read(path, target)
    assert os.listdir(target.path) == []
    assert set(tmp_path.parent.rglob("*")) == before


def test_a_member_twice(checkpoint: Checkpoint, target: Store, tmp_path: Path) -> None:
    path = f"{tmp_path}/file.tar"
    archive.write(checkpoint, path, {}, told)
    with tarfile.open(path, "a") as written:
        written.addfile(member("spec.dump"), io.BytesIO())
    with pytest.raises(FileExistsError):
        read(path, target)
    assert os.listdir(target.path) == []


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"core-1.img") + 512] ^= 1  # its content: tar's blocks have 512 bytes
    path.write_bytes(data)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def garbled(path: Path) -> None:
    path.write_bytes(b"no archive at all" * 100)


def podmans_own(path: Path) -> None:
    with tarfile.open(path, "w") as written:
        written.addfile(member("config.dump"), io.BytesIO())


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, garbled, podmans_own], ids=lambda f: f.__name__)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged(
    checkpoint: Checkpoint, target: Store, tmp_path: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    plain, path = tmp_path / "plain.tar", tmp_path / f"file{suffix}"
    archive.write(checkpoint, str(plain), {}, told)
    damage(plain)
    with open(path, "wb") as stream:
        subprocess.run([*(archive.COMPRESSORS[suffix] or ["cat"])], stdin=plain.open("rb"), stdout=stream, check=True)
    with pytest.raises(ShimError) as raised:
        read(str(path), target)
    assert str(path) in str(raised.value)
    assert os.listdir(target.path) == []


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_damaged_compression(checkpoint: Checkpoint, target: Store, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    archive.write(checkpoint, str(path), {}, told)
    truncated(path)
    with pytest.raises(ShimError, match=f"file{suffix}"):
        read(str(path), target)
    assert os.listdir(target.path) == []


def test_missing(target: Store, tmp_path: Path) -> None:
    with pytest.raises(ShimError, match=r"none.tar: No such file"):
        read(f"{tmp_path}/none.tar", target)
