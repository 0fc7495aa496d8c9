"""Checkpoints whose memory is compressed, small ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.checkpoints import codec, integrity, unpacking
from oci_criu_shim.checkpoints.codec import Codec
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.compression import Compression
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.host import mounts
from tests.unit.test_schema import full_manifest

FRAME = 1000
PAGES = b"".join(bytes([n % 7]) * 300 + bytes([n % 256]) for n in range(50))
NOISE = random.Random(1).randbytes(5000)
RAW, PACKED = "checkpoint/pages-1.img", "checkpoint/pages-1.img.zst"
ZSTD = Codec("zstd", 1)
WHOLE = {f"1/{name}" for name in ("manifest.json", "checksums.json", "spec.dump")}
IMAGES = {f"1/checkpoint/{name}.img" for name in ("pages-1", "pages-2", "pagemap-1", "core-1")}
COMPRESSED = WHOLE | IMAGES - {f"1/{RAW}"} | {f"1/{PACKED}"}


def make_small(monkeypatch: pytest.MonkeyPatch, node: Path) -> None:
    """Have small files count as large, and `node` as the node's own disk."""
    monkeypatch.setattr(integrity, "LARGE", 2000)
    monkeypatch.setattr(codec, "FRAME", FRAME)
    node.mkdir()
    monkeypatch.setattr(unpacking, "NODE_LOCAL", str(node))
    monkeypatch.setattr(mounts, "IN_MEMORY", ())


def make_store(directory: Path, said: list[str] | None = None, left: float = 600) -> Store:
    """One that compresses; what goes wrong is `said`, and Slurm leaves so many seconds."""
    directory.mkdir(mode=0o700)
    words = [] if said is None else said
    return Store(str(directory), ".", compression=lambda: Compression(ZSTD, lambda: left, words.append))


def commit(store: Store, **changes: Any) -> Checkpoint:
    with store.stage() as stage:
        for name, data in (("pages-1", PAGES), ("pages-2", NOISE), ("pagemap-1", PAGES), ("core-1", b"core")):
            Path(stage.images, f"{name}.img").write_bytes(data)
        stage.write("spec.dump", {})
        sizes = stage.sizes()
        # Frozen so long that a busy machine has the time to compress it.
        fields = {"files": sizes, "bytes": sum(sizes.values()), "frozen_seconds": 100}
        return stage.commit(full_manifest(**fields, **changes))


def newest(store: Store) -> Checkpoint:
    found = next(iter(store.newest_first()))
    assert isinstance(found, Checkpoint), found
    return found


def verified(checkpoint: Checkpoint) -> bool:
    verification = Verification(checkpoint)
    verification.start()
    verification.require()
    return not verification.gap


def contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: Path(checkpoint.path, name).read_bytes() for name in checkpoint.manifest["files"]}


def left(store: Store) -> set[str]:
    """All files below it, of which none should be there but those of checkpoints."""
    return {str(path.relative_to(store.path)) for path in Path(store.path).rglob("*") if path.is_file()}
