"""A checkpoint in a directory of its own: all of the new one, or all of what was there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints.directory import Directory, Images, joined
from oci_criu_shim.checkpoints.manifest import Manifest
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.errors import ShimError
from tests.unit.test_schema import full_manifest

STREAMS = ["/dev/null", "pipe:[1]", "pipe:[2]"]


def fill(stage: Stage, *names: str) -> Manifest:
    """Write images of these names; the manifest."""
    stage.describe({}, {}, STREAMS)
    for name in ("inventory.img", *names):
        (Path(stage.images) / name).write_text(name)
    return full_manifest() | {"files": stage.sizes()}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def take(directory: Path, *images: str) -> None:
    place = Directory(str(directory))
    place.prepare()
    with place.stage() as stage:
        stage.commit(fill(stage, *images))


def test_committed(tmp_path: Path) -> None:
    take(tmp_path / "images", "core-1.img")
    images = {"inventory.img", "core-1.img"}
    assert names(tmp_path / "images") == {*images, "descriptors.json", "manifest.json", "checksums.json"}
    found = Directory(str(tmp_path / "images")).read()
    assert found is not None
    assert found.images == found.path == str(tmp_path / "images")
    assert found.manifest["files"]["core-1.img"] == len("core-1.img")


def test_the_next_one_takes_its_place(tmp_path: Path) -> None:
    take(tmp_path, "core-1.img", "core-7.img")
    (tmp_path / "restore.log").touch()
    take(tmp_path, "core-1.img")
    images = {"inventory.img", "core-1.img"}
    assert names(tmp_path) == {*images, "descriptors.json", "manifest.json", "checksums.json", "restore.log"}


def test_one_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    take(tmp_path, "core-1.img")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with Directory(str(tmp_path)).stage() as stage:
        manifest = fill(stage, "core-1.img", "core-9.img")
        (Path(stage.images) / "core-9.img").unlink()
        with pytest.raises(FileNotFoundError):
            stage.commit(manifest)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    """That of another node may be alive; and what somebody else calls so is his."""
    kept = {".stage.elsewhere.1.1", ".stage.x"}
    for name in (*kept, f".stage.{os.uname().nodename}.1.1"):
        (tmp_path / name).mkdir()
    Directory(str(tmp_path)).prepare()
    assert names(tmp_path) == kept


def test_work_directory(tmp_path: Path) -> None:
    place = Directory(str(tmp_path / "images"), str(tmp_path / "work"))
    place.prepare()
    with place.stage() as stage:
        assert stage.work == str(tmp_path / "work")
    assert names(tmp_path) == {"images", "work"}
    with Directory(str(tmp_path)).stage() as stage:
        assert stage.work == str(tmp_path)


def test_none_and_another_runtimes(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match="no checkpoint in"):
        Directory(str(tmp_path)).read()
    (tmp_path / "inventory.img").touch()
    assert Directory(str(tmp_path)).read() is None


def test_one_that_is_not_whole(tmp_path: Path) -> None:
    take(tmp_path, "core-1.img")
    (tmp_path / "core-1.img").write_text("")
    with pytest.raises(ShimError, match=r"core-1.img has 0 bytes, not 10"):
        Directory(str(tmp_path)).read()


def test_upon_a_pre_dump(tmp_path: Path) -> None:
    found: Images | None = None
    for number in (1, 2):  # the second takes the place of the first
        pre = Directory(str(tmp_path / "pre"))
        pre.prepare()
        with (stage := pre.stage()):
            (Path(stage.images) / "pages-1.img").write_text(f"memory {number}")
            stage.keep()
        assert names(tmp_path / "pre") == {"pages-1.img"}
        place = Directory(str(tmp_path / "images"), parent="../pre")
        place.prepare()
        with place.stage() as upon:
            upon.commit(fill(upon, "core-1.img"))
        found = place.read()
        assert found and not any(name.startswith("parent/") for name in found.manifest["files"])
        assert (tmp_path / "images/parent").readlink() == Path("../pre")
        with joined(found) as whole:
            assert Path(whole.images, "parent/pages-1.img").read_text() == f"memory {number}"
            assert not Path(whole.images, "parent").is_symlink()
        assert not Path(whole.images).exists()
    assert found
    (tmp_path / "pre").rename(tmp_path / "other")
    with pytest.raises(ShimError, match=r"images is built upon \.\./pre, which is not there"), joined(found):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"images", "other"}
    take(tmp_path / "images")
    assert "parent" not in names(tmp_path / "images")


def test_upon_one_that_is_not_there(tmp_path: Path) -> None:
    place = Directory(str(tmp_path / "images"), parent="../pre")
    with pytest.raises(ShimError, match=r"cannot build upon \.\./pre, which is no directory"):
        place.prepare()
    assert not names(tmp_path / "images")
