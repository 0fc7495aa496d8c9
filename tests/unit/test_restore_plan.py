"""What a restore takes from a checkpoint's images, and what it gives CRIU instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.container import limits
from oci_criu_shim.container.record import Container
from oci_criu_shim.host import criu_images
from oci_criu_shim.restore.edits import Edits
from oci_criu_shim.restore.plan import RestorePlan
from oci_criu_shim.restore.seccomp import Seccomp
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
    clock: Any = {"monotonic": 3_000_000_002, "boottime": 5_000_000_000}
    edits = Edits(str(tmp_path), container.directory)
    edits.edit_clocks(clock)
    (tmp_path / "timens-0.img").touch()
    edits.edit_clocks(None)
    assert not edits.paths
    edits.edit_clocks(clock)
    (path,) = edits.paths
    assert written == {
        path: [{"monotonic": {"tv_sec": 3, "tv_nsec": 2}, "boottime": {"tv_sec": 5, "tv_nsec": 0}}],
    }


def test_namespaces_binds_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what changes is written: namespaces that are made here, binds of what was replaced, limits and seccomp."""
    images: dict[str, Any] = {
        "ids-1.img": [{"net_ns_id": 5, "pid_ns_id": 6, "user_ns_id": 7}],
        "inventory.img": [{"tcp_close": True, "root_ids": {"net_ns_id": 1, "pid_ns_id": 2}}],
        "mountpoints-1.img": [{"ext_key": "/a", "deleted": True}, {"deleted": True}],
        "mountpoints-2.img": [{"ext_key": "/a", "deleted": False}],
        "mountpoints-3.img": [{"mountpoint": "/sys/fs/cgroup/cpu", "flags": 3}, {"mountpoint": "/sys", "flags": 3}],
        "core-1.img": [{"tc": {"rlimits": {"rlimits": [{"cur": 5, "max": 9}]}}, "thread_core": {}}],
        "core-2.img": [{"thread_core": {"seccomp_mode": "strict"}}],
        "core-3.img": [{"thread_core": {}}],
    }
    needs: Any = {}
    written: dict[str, Any] = {}
    for name in images:
        (tmp_path / name).touch()
    (tmp_path / "core-dumps").mkdir()
    monkeypatch.setattr(criu_images, "load", lambda path: {"entries": images[os.path.basename(path)]})
    monkeypatch.setattr(criu_images, "dump", lambda path, image: written.update({path: image["entries"]}))
    monkeypatch.setattr(criu_images, "seccomp", lambda path: (1 if path.endswith("2.img") else 0, 0))
    monkeypatch.setattr(limits, "_lowered", lambda _: iter([("CPU", 5, 9, 4)]))
    edits = Edits(str(tmp_path), "/copies")
    ids = edits.edit_inventory(("net_ns_id", "user_ns_id", "uts_ns_id"))
    assert (ids["own"]["net_ns_id"], ids["root"]) == (5, {"net_ns_id": 1, "pid_ns_id": 2})
    edits.edit_mounts(["/sys/fs/cgroup/cpu"])
    edits.edit_threads(needs, Seccomp(str(tmp_path)))
    assert written == {
        "/copies/inventory.img": [{"root_ids": {"net_ns_id": 5, "pid_ns_id": 2, "user_ns_id": 7}}],
        "/copies/mountpoints-1.img": [{"ext_key": "/a"}, {"deleted": True}],
        "/copies/mountpoints-3.img": [
            {"mountpoint": "/sys/fs/cgroup/cpu", "flags": 259},
            images["mountpoints-3.img"][1],
        ],
        "/copies/core-1.img": [{"tc": {"rlimits": {"rlimits": [{"cur": 4, "max": 4}]}}, "thread_core": {}}],
        "/copies/core-2.img": [{"thread_core": {}}],
    }
    assert sorted(edits.paths) == sorted(written)
