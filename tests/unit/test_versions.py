"""Checkpoints that older versions wrote are read as they always were.

versions/ has a checkpoint directory of each version: job 1's checkpoint is raw, job 2's was compressed by zstd. Their
only process had filled 1.3 MB with one letter, and waited in a container of alice's on a cluster of
tests.harness.cluster; what a task's root file system had in it is left out.
"""

from __future__ import annotations

import functools
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_criu_shim import files
from oci_criu_shim.checkpoints import document, unpacking
from oci_criu_shim.checkpoints.committed import Checkpoint, read
from oci_criu_shim.checkpoints.directory import joined
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.layer import Layer
from oci_criu_shim.checkpoints.manifest import Manifest
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.cli import parse
from oci_criu_shim.cli.ckpt import images
from oci_criu_shim.container import node_fit
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.host import criu, mounts
from oci_criu_shim.restore import restore
from tests.unit.test_manifest import OURS

ARCHIVES = Path(__file__).parent / "versions"
VERSIONS = sorted(path.name.removesuffix(".tar.xz") for path in ARCHIVES.iterdir())
PAGES = "checkpoint/pages-1.img"
FILLED = 1300000  # bytes
DESCRIBED = {"memory": 0, "processes": [], "files": [], "sockets": [], "mounts": []}
# All that a version wrote before it had a feature lacks this.
OPTIONAL = Manifest.__optional_keys__ - OURS
Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=VERSIONS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVES / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path / "ckpt", filter="data")
    return tmp_path / "ckpt"


def checkpoints(directory: Path) -> Iterator[Checkpoint]:
    for job in ("1", "2"):
        if (directory / job).exists():
            (found,) = Store(str(directory), f"{job}/batch.0").newest_first()
            assert isinstance(found, Checkpoint), found
            yield found


def ran(*words: object) -> int:
    return parse.main(["ckpt", *map(str, words)])


def test_there_is_one_of_each_version() -> None:
    assert {"0.1.0", "0.2.0"} <= set(VERSIONS)


def test_they_are_whole(directory: Path) -> None:
    for checkpoint in checkpoints(directory):
        verification = Verification(checkpoint)
        verification.start()
        verification.require()
        assert not verification.gap
        assert (checkpoint.seq, checkpoint.parent) == (1, None)
        assert checkpoint.sizes[PAGES if PAGES in checkpoint.sizes else f"{PAGES}.zst"] > FILLED


def test_list_and_show(directory: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "describe", lambda _: DESCRIBED)  # CRIU's package is not for all who run this
    assert ran("list", "--json", directory) == 0
    rows = json.loads(capfd.readouterr().out)
    found = {row["job"]: (row["step"], row["task"], row["seq"], row["reason"], row["damaged"]) for row in rows}
    assert found and set(found.values()) == {("batch", 0, 1, "request", None)}
    for row in rows:
        assert ran("show", "--json", row["path"]) == 0
        shown = json.loads(capfd.readouterr().out)
        assert shown["container"] == f"n1.alice.{row['job']}.4294967291.0"
        assert shown["compressed"] == ([] if row["job"] == 1 else ["zstd"])
        assert shown["dumped"] > FILLED


def test_verify(directory: Path, capfd: Capture) -> None:
    assert ran("verify", directory) == 0
    assert all(line.endswith(": ok") for line in capfd.readouterr().out.splitlines())


def test_what_precedes_a_restore(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "NODE_LOCAL", str(tmp_path))
    monkeypatch.setattr(mounts, "IN_MEMORY", ())
    monkeypatch.setattr(criu, "version", lambda _: (4, 2, 1))
    monkeypatch.setattr(criu, "require_bindings", lambda made: None)
    for checkpoint in checkpoints(directory):
        monkeypatch.setattr(node_fit, "cpu", functools.partial(set, checkpoint.manifest["needs"]["cpu"]))
        checkpoint.manifest["needs"]["machine"] = os.uname().machine
        checkpoint.manifest["needs"]["cgroup"] = node_fit.cgroup_version()
        node_fit.check(checkpoint.manifest)
        assert restore.pending_input(checkpoint) == b""
        assert Layer(checkpoint.path).deleted == []
        with unpacking.Unpacked(Verification(checkpoint)) as raw, joined(raw) as whole:
            memory = Path(whole.path, PAGES).read_bytes()
            assert len(memory) == whole.manifest["files"][PAGES]
            assert memory.count(b"A") >= FILLED


def test_what_old_ones_lack(directory: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first release, manifests had even less."""
    monkeypatch.setattr(images, "describe", lambda _: DESCRIBED)
    for checkpoint in checkpoints(directory):
        path = Path(checkpoint.path)
        manifest = json.loads((path / "manifest.json").read_text())
        if "compressed" in manifest:
            continue
        less = document.sealed({key: value for key, value in manifest.items() if key not in OPTIONAL})
        (path / "manifest.json").write_text(json.dumps(less))
        found = read(str(path))
        bundle = Bundle("/", files.read_json(str(path / "spec.dump")))
        node_fit.check(found.manifest)
        list(node_fit.differences(found.manifest, bundle))
        assert ran("show", path) == ran("verify", path) == ran("list", directory) == 0
        assert "damaged" not in capfd.readouterr().out
