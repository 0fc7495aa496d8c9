"""The cache of the nodes' root file systems (tests/harness/cluster/rootfs.py)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.harness.cluster import rootfs
from tests.harness.cluster.lock import locked
from tests.harness.cluster.rootfs import Recipe


def test_who_waits_for_a_root_does_not_wait_for_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one builds it, and uses it at once, for longer than anybody waits."""
    recipe = Recipe(name="small", variant="extract", packages=(), script="")
    root = tmp_path / recipe.key()
    held, enough = threading.Event(), threading.Event()

    def build_and_use() -> None:
        with locked(rootfs._lock_of(root)):
            held.set()
            looked.wait(20)
            root.mkdir()
        with rootfs.kept(root):
            enough.wait(20)

    looked = threading.Event()
    monkeypatch.setenv("OCI_CRIU_SHIM_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda _: looked.set())
    other = threading.Thread(target=build_and_use)
    other.start()
    assert held.wait(20)
    assert rootfs.ensure(recipe, print) == root
    assert other.is_alive()
    enough.set()
    other.join()
