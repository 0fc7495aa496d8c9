"""The cache of the nodes' root file systems, and of what is installed there (tests/harness/cluster/cache.py)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.harness.cluster import cache, layer, rootfs
from tests.harness.cluster.errors import ClusterError
from tests.harness.cluster.lock import locked
from tests.harness.cluster.rootfs import Recipe
from tests.harness.cluster.suite import SUITES, chosen

SMALL = Recipe(name="small", variant="extract", packages=(), script="")


def test_who_waits_for_a_root_does_not_wait_for_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one builds it, and uses it at once, for longer than anybody waits."""
    root = tmp_path / SMALL.key()
    held, enough = threading.Event(), threading.Event()

    def build_and_use() -> None:
        with locked(cache._lock_of(root)):
            held.set()
            looked.wait(20)
            root.mkdir()
        with cache.kept(root):
            enough.wait(20)

    looked = threading.Event()
    monkeypatch.setenv("OCI_CRIU_SHIM_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda _: looked.set())
    other = threading.Thread(target=build_and_use)
    other.start()
    assert held.wait(20)
    assert rootfs.ensure(SMALL, print) == root
    assert other.is_alive()
    enough.set()
    other.join()


def test_each_suite_has_roots_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one stay if another has a new recipe."""
    roots = []
    for suite in SUITES.values():
        monkeypatch.setattr(rootfs, "SUITE", suite)
        roots.append(tmp_path / SMALL.key())
        roots[-1].mkdir()
        cache._lock_of(roots[-1]).touch()
    for root in roots:
        cache._remove_older(root)
    assert len(roots) > 1
    assert all(root.is_dir() for root in roots)


def test_a_checkout_that_changes_is_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if only a mode changes, and not if what nobody installs does."""
    checkout, root = tmp_path / "checkout", tmp_path / "rootfs-0123456789ab"
    for name in ("src/one.py", "spank/two.c", "etc/three", "tools/four", "tests/five.py"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).write_text(name)
    (checkout / "Makefile").touch()
    monkeypatch.setenv("OCI_CRIU_SHIM_CACHE", str(tmp_path / "cache"))
    made: list[Path] = []

    def build(_: Path, scratch: Path, *__: object) -> Path:
        made.append(scratch / "upper")
        made[-1].mkdir()
        return made[-1]

    monkeypatch.setattr(layer, "_build", build)
    found = [layer.ensure(root, checkout, print) for _ in range(2)]
    assert found[0] == found[1] and found[0].name.startswith("rootfs-layer-") and len(made) == 1
    (checkout / "tests/five.py").write_text("")
    assert layer.ensure(root, checkout, print) == found[0]
    (checkout / "tools/four").chmod(0o755)
    again = layer.ensure(root, checkout, print)
    assert again != found[0] and len(made) == 2
    assert not found[0].exists()
    (checkout / "src/one.py").write_text("")
    assert layer.ensure(root, checkout, print) != again


@pytest.mark.parametrize(("given", "name"), [({}, "trixie"), ({"SUITE": ""}, "trixie"), ({"SUITE": "forky"}, "forky")])
def test_the_environment_names_the_suite(given: dict[str, str], name: str) -> None:
    assert chosen(given).name == name


def test_there_are_recipes_for_some_suites_only() -> None:
    with pytest.raises(ClusterError, match=r"^SUITE=bookworm: there is no recipe for it") as caught:
        chosen({"SUITE": "bookworm"})
    assert caught.value.hint == "one of trixie, forky, trixie-criu-4.1"
