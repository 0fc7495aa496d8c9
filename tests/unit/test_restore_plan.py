"""What a restore takes from a checkpoint's images, and what it gives CRIU instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.container.record import Container
from oci_criu_shim.host import criu_images
from oci_criu_shim.restore import plan
from oci_criu_shim.restore.plan import RestorePlan
from tests.unit.test_registry import container

__all__ = ["container"]


@pytest.mark.parametrize(
    ("noted", "in_images", "found"),
    [(0x0040008, 40008, 0x0040008), (0, 0, 0), (None, 40008, 0x0040008), (None, 8, 8), (None, 8000000, 0x8000000)],
)
def test_personality(monkeypatch: pytest.MonkeyPatch, noted: int | None, in_images: int, found: int) -> None:
    """Earlier versions, and other runtimes, leave it to CRIU, which takes the digits for decimal ones."""
    made: Any = object.__new__(RestorePlan)
    made.manifest = {} if noted is None else {"personality": noted}
    monkeypatch.setattr(RestorePlan, "_init", lambda _: {"personality": in_images})
    assert made.personality == found


def test_clocks(container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on from the freeze, not from the moment that CRIU noted."""
    written: dict[str, Any] = {}
    time = {"tv_sec": 9, "tv_nsec": 9}
    entry = {"monotonic": dict(time), "boottime": dict(time)}
    monkeypatch.setattr(criu_images, "load", lambda _: {"magic": "TIMENS", "entries": [entry]})
    monkeypatch.setattr(criu_images, "dump", lambda path, image: written.update({path: image["entries"]}))
    manifest: Any = {"clock": {"monotonic": 3_000_000_002, "boottime": 5_000_000_000}}
    assert list(plan._write_clocks(str(tmp_path), container, manifest)) == []
    (tmp_path / "timens-0.img").touch()
    assert list(plan._write_clocks(str(tmp_path), container, manifest | {"clock": None})) == []
    (path,) = plan._write_clocks(str(tmp_path), container, manifest)
    assert written == {
        path: [{"monotonic": {"tv_sec": 3, "tv_nsec": 2}, "boottime": {"tv_sec": 5, "tv_nsec": 0}}],
    }
