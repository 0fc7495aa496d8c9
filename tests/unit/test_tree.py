"""A root file system as a tar file."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints.layer import Layer
from oci_criu_shim.checkpoints.tree import Tree
from oci_criu_shim.errors import ShimError

LONG = "d" * 90 + "/" + "f" * 120


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "d" / os.path.dirname(LONG)).mkdir(parents=True)
    (made / "d" / LONG).write_text("long")
    (made / "large").write_bytes(os.urandom((1 << 20) + 5))
    (made / "small").write_text("small")
    os.link(made / "small", made / "linked")
    (made / "empty").touch(mode=0o4755)
    (made / "link").symlink_to("d")
    (made / "broken").symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(made / "socket"))
    return made


def written(tree: Tree, path: Path) -> Path:
    with tree.stream() as stream:
        path.write_bytes(stream.read())
    assert path.stat().st_size == tree.size
    return path


def test_it_is_the_same_again(root: Path, tmp_path: Path) -> None:
    (root / "socket").unlink()
    with tarfile.open(written(Tree(str(root), {}), tmp_path / "tar")) as archive:
        archive.extractall(tmp_path / "again", filter="fully_trusted")
    for path in root.rglob("*"):
        same, found = path.lstat(), (again := tmp_path / "again" / path.relative_to(root)).lstat()
        assert (same.st_mode, same.st_uid, same.st_gid) == (found.st_mode, found.st_uid, found.st_gid)
        if path.is_symlink():
            assert path.readlink() == again.readlink()
            continue
        assert int(same.st_mtime) == int(found.st_mtime)
        if path.is_file():
            assert path.read_bytes() == again.read_bytes()
    again = tmp_path / "again"
    assert sum(1 for _ in again.rglob("*")) == sum(1 for _ in root.rglob("*"))
    assert (again / "small").stat().st_ino == (again / "linked").stat().st_ino


def test_a_file_has_its_length_at_the_checkpoint(root: Path, tmp_path: Path) -> None:
    lengths = {"large": 700, f"d/{LONG}": 99}
    with tarfile.open(written(Tree(str(root), lengths), tmp_path / "tar")) as archive:
        sizes = {member.name: member.size for member in archive}
    assert (sizes["large"], sizes[f"d/{LONG}"]) == (700, 4)
    assert "socket" not in sizes


def test_growing_and_shrinking_files(root: Path, tmp_path: Path) -> None:
    tree = Tree(str(root), {})
    with (root / "large").open("ab") as grown:
        grown.write(b"more")
    written(tree, tmp_path / "tar")
    os.truncate(root / "large", 3)
    with pytest.raises(ShimError, match="large became shorter while it was read"):
        written(tree, tmp_path / "tar")


def test_what_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShimError, match=r"none: No such file"):
        Tree(str(root / "none"), {})
    monkeypatch.setattr(os, "access", lambda path, _: not path.endswith("/large"))
    with pytest.raises(ShimError, match="/large is not yours to read"):
        Tree(str(root), {})


def test_with_what_a_layer_has_changed(root: Path, tmp_path: Path) -> None:
    """In the place of what is here now."""
    (tmp_path / "deleted.files").write_text('["empty"]')
    with tarfile.open(tmp_path / "rootfs-diff.tar", "w") as made:
        for name, content in (("small", b"other"), ("new", b"new")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    tree = Tree(str(root), {}, Layer(str(tmp_path)))
    with tarfile.open(written(tree, tmp_path / "tar")) as archive:
        names = archive.getnames()
        contents = {name: archive.extractfile(name) for name in ("small", "linked", "new")}
        assert {name: stream.read() for name, stream in contents.items() if stream} == {
            **{"small": b"other", "linked": b"small", "new": b"new"}
        }
    assert sorted(names) == sorted({*names})
    assert "empty" not in names and "broken" in names
