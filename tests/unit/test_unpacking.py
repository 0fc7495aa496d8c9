"""Raw copies of compressed checkpoints: where they are made, and that nothing of them is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints import codec, committed, scratch, unpacking
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.checkpoints.unpacking import Unpacked, complete
from oci_criu_shim.errors import Damaged, ShimError
from oci_criu_shim.host import mounts
from tests.unit.compressed import (
    COMPRESSED,
    FRAME,
    NOISE,
    PACKED,
    PAGES,
    RAW,
    ZSTD,
    commit,
    contents,
    left,
    make_small,
    make_store,
    verified,
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    make_small(monkeypatch, tmp_path / "node")
    return make_store(tmp_path / "store")


def test_unpacked(store: Store, tmp_path: Path) -> None:
    made = commit(store)
    link = str(tmp_path / "link")
    with Unpacked(Verification(made), link) as raw:
        assert os.path.realpath(link) == raw.path
        assert os.path.dirname(raw.path) == str(tmp_path / "node")
        assert os.stat(raw.path).st_mode & 0o777 == 0o700
        assert contents(raw)[RAW] == PAGES
        assert contents(raw)["checkpoint/pages-2.img"] == NOISE
        complete(raw)
        assert committed.read(raw.path).manifest == raw.manifest
        assert verified(committed.read(raw.path))
    assert os.listdir(tmp_path / "node") == []
    assert not os.path.lexists(link)


def test_unpacked_of_a_raw_one(store: Store) -> None:
    made = commit(store, reason="interval")
    with Unpacked(Verification(made)) as raw:
        assert raw is made


@pytest.mark.parametrize("why", ["memory", "room", "taken"])
def test_unpacked_beside_it(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    made = commit(store)
    if why == "memory":
        monkeypatch.setattr(mounts, "deepest", lambda *_: mounts.Mount("1 1 0:1 / / rw - tmpfs t rw"))
        monkeypatch.setattr(mounts, "IN_MEMORY", ("tmpfs",))
    elif why == "room":
        monkeypatch.setattr(unpacking, "_free", lambda _: 0)
    else:
        (tmp_path / "node" / scratch.name()).mkdir()
    with Unpacked(Verification(made)) as raw:
        assert os.path.dirname(raw.path) == store.directory
    assert left(store) == COMPRESSED


def test_what_others_left_unpacked_is_swept(store: Store, tmp_path: Path) -> None:
    made = commit(store)
    stale = tmp_path / "node" / f".stage.{os.uname().nodename}.1.1"
    other = tmp_path / "node" / ".stage.elsewhere.1.1"
    for path in (stale, other):
        path.mkdir()
    with Unpacked(Verification(made)):
        assert not stale.exists()
    assert other.exists()


def test_no_room_anywhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/x")

    made = commit(store)
    monkeypatch.setattr(codec, "unpack", full)
    with (
        pytest.raises(ShimError, match=r"can't be unpacked: /x: No space left on device"),
        Unpacked(Verification(made)),
    ):
        pass
    assert left(store) == COMPRESSED


def test_nothing_is_read_twice(store: Store) -> None:
    """All large files are verified by the way, the compressed one and those that are copied."""
    verification = Verification(made := commit(store))
    with Unpacked(verification):
        assert verification.followed == {PACKED, "checkpoint/pages-2.img", "checkpoint/pagemap-1.img"}
        verification.start()
        assert verification.begun and verification.begun.found == {}
        verification.require()
    assert not verification.gap
    assert verified(made)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def unpacks(path: Path, target: Path) -> bool:
    """Whether a compressed file looks whole: zstd's frames have no checksums."""
    target.unlink(missing_ok=True)
    try:
        with codec.Pool() as pool:
            return bool(list(codec.unpack(ZSTD, str(path), str(target), len(PAGES), FRAME, pool)))
    except ValueError:
        return False


def test_a_flipped_byte(store: Store, tmp_path: Path) -> None:
    made = commit(store)
    packed = Path(made.path, PACKED)
    whole = packed.read_bytes()
    for place in range(len(whole)):
        packed.write_bytes(flipped(whole, place))
        if unpacks(packed, tmp_path / "raw"):
            break
    assert (tmp_path / "raw").read_bytes() != PAGES
    with pytest.raises(Damaged, match=f"{packed} is damaged: its checksum is not what it was"):
        Unpacked(Verification(made)).__enter__()
    assert os.listdir(tmp_path / "node") == []


def test_a_flipped_byte_of_what_is_copied(store: Store) -> None:
    made = commit(store)
    copied = Path(made.path, "checkpoint/pages-2.img")
    copied.write_bytes(flipped(NOISE, 7))
    with pytest.raises(Damaged, match=f"{copied} is damaged: its checksum is not what it was"):
        Unpacked(Verification(made)).__enter__()


def test_what_is_read_again_is_verified_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is no room in the first place, it is unpacked to another one."""
    made = commit(store)
    Path(made.path, "checkpoint/pages-2.img").write_bytes(flipped(NOISE, 7))
    copy: Callable[..., object] = unpacking._copy
    full: list[bool] = []

    def copied(source: str, target: str) -> object:
        if source.endswith("pages-2.img") and not full:
            full.append(True)
            raise OSError(28, "No space left on device", target)
        return copy(source, target)

    monkeypatch.setattr(unpacking, "_copy", copied)
    with pytest.raises(Damaged, match=r"pages-2.img is damaged"):
        Unpacked(Verification(made)).__enter__()
    assert full


@pytest.mark.parametrize("name", ["../../away", "checkpoint/../../away", "/away"])
def test_no_way_out(store: Store, name: str) -> None:
    made = commit(store)
    made.manifest["files"][name] = 3
    with pytest.raises(ShimError, match="has no place in a checkpoint"), Unpacked(Verification(made)):
        pass
