"""What has changed in a root file system, kept and put back."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from oci_criu_shim.checkpoints import baseline
from oci_criu_shim.checkpoints.applying import Application
from oci_criu_shim.checkpoints.layer import Changes, Layer
from oci_criu_shim.errors import Misfit, ShimError

NAMES = ("kept", "changed", "deleted", "both", "mode", "named", "old/file", "old/inner/file", "gone/file", "a/x", "b/x")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A root file system, unpacked long ago."""
    root = tmp_path / "here"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
        os.utime(root / name, (1, 1))
    (root / "symbolic").symlink_to("kept")
    return root


@pytest.fixture
def there(here: Path, tmp_path: Path) -> Path:
    """The same on another node."""
    return Path(shutil.copytree(here, tmp_path / "there", symlinks=True))


@pytest.fixture(params=[False, True], ids=["unmarked", "marked"])
def task(here: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The directory of a task that begins here; the marks of files may be noted already."""
    (tmp_path / "task").mkdir()
    time.sleep(0.02)  # a tick of the kernel's clock
    baseline.note(str(tmp_path / "task"), str(here))
    if request.param:
        baseline.note_marks(str(tmp_path / "task"), str(here))
    return tmp_path / "task"


def changes(
    task: Path, root: Path, covered: Iterable[str] = (), names: Iterable[str] = (), deleted: Iterable[str] = ()
) -> Changes:
    known = baseline.find(str(task), str(root))
    assert known
    return Changes(str(root), known, covered, (names, deleted))


def kept(task: Path, found: Changes) -> Layer:
    """The layer, from its files."""
    (task / "rootfs-diff.tar").unlink(missing_ok=True)
    found.write(str(task / "rootfs-diff.tar"))
    (task / "deleted.files").write_text(json.dumps(found.deleted))
    return Layer(str(task))


def tree(root: Path) -> dict[str, object]:
    """{path: all that a program can see of it}."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        times = 0 if path.is_dir() else status.st_mtime_ns
        found[str(path.relative_to(root))] = status.st_mode, content, times, path.is_dir() or status.st_nlink
    return found


def make(root: Path) -> None:
    (root / "new").mkdir(mode=0o700)
    (root / "new/\udcff").write_text("a name that is no text")
    (root / "new/fifo").touch()
    (root / "new/fifo").unlink()
    os.mkfifo(root / "new/fifo", 0o640)
    (root / "empty").mkdir(mode=0o751)


def rename(root: Path) -> None:
    (root / "named").rename(root / "renamed")
    (root / "old").rename(root / "moved")


def exchange(root: Path) -> None:
    """Two directories, whose files are not touched."""
    (root / "a").rename(root / "c")
    (root / "b").rename(root / "a")
    (root / "c").rename(root / "b")


def link(root: Path) -> None:
    os.link(root / "kept", root / "linked")
    (root / "symbolic").unlink()
    (root / "symbolic").symlink_to("mode")


def backwards(root: Path) -> None:
    """It looks older than what was there, as an older version does that was unpacked."""
    (root / "changed").write_text("older")
    os.utime(root / "changed", ns=(5, 5))


def replace_kinds(root: Path) -> None:
    shutil.rmtree(root / "gone")
    (root / "gone").write_text("a file")
    (root / "deleted").unlink()
    (root / "deleted").mkdir()
    (root / "deleted/inner").write_text("inner")


def close(root: Path) -> None:
    (root / "gone/file").unlink()
    (root / "gone").chmod(0o500)
    (root / "mode").chmod(0o600)


def remove(root: Path) -> None:
    (root / "deleted").unlink()
    shutil.rmtree(root / "old")


CHANGES = [make, rename, exchange, link, backwards, replace_kinds, close, remove]


@pytest.mark.parametrize("change", CHANGES)
def test_there_as_here(here: Path, there: Path, task: Path, change: Callable[[Path], object]) -> None:
    """A second time changes nothing."""
    change(here)
    layer = kept(task, changes(task, here))
    for _ in range(2):
        Application(layer, str(there)).run()
        assert tree(there) == tree(here)
    inodes = {path: path.lstat().st_ino for path in there.rglob("*")}
    Application(layer, str(there)).run()
    assert inodes == {path: path.lstat().st_ino for path in there.rglob("*")}


def test_only_what_has_changed(here: Path, task: Path) -> None:
    (here / "changed").write_text("other")
    (here / "old/inner/file").unlink()
    layer = kept(task, changes(task, here))
    assert sorted(layer.names) == [".", "changed", "old/inner"]
    assert layer.deleted == ["old/inner/file"]
    names = {member.name: member for member in tarfile.open(layer.file)}
    assert names["changed"].mode == 0o644
    assert names["changed"].mtime == pytest.approx(os.stat(here / "changed").st_mtime)


def touch_all(root: Path) -> None:
    """All files get another name outside, and their owner and mode again."""
    for path in (root / name for name in NAMES):
        os.link(path, root.parent / path.relative_to(root).as_posix().replace("/", "-"))
        os.chown(path, os.geteuid(), os.getegid())
        os.chmod(path, 0o644)


def test_another_ctime_alone_is_no_change(here: Path, task: Path) -> None:
    baseline.note_marks(str(task), str(here))
    time.sleep(0.02)
    touch_all(here)
    (here / "changed").write_text("changed"[::-1])
    os.utime(here / "changed", (2, 2))
    (here / "mode").chmod(0o600)
    (here / "both").unlink()
    shutil.copy2(here / "kept", here / "both")
    assert sorted(kept(task, changes(task, here)).names) == [".", "both", "changed", "mode"]


def test_what_changes_before_it_has_a_mark(here: Path, task: Path) -> None:
    (task / f"rootfs.{os.uname().nodename}.files").unlink(missing_ok=True)
    touch_all(here)
    (here / "deleted").unlink()
    baseline.note_marks(str(task), str(here))
    layer = kept(task, changes(task, here))
    assert (sorted(layer.names), layer.deleted) == ([".", *sorted({*NAMES} - {"deleted"})], ["deleted"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"begin": 1, "marks": {}}', '{"begin": 0}'])
def test_marks_that_are_none(here: Path, task: Path, text: str) -> None:
    (task / f"rootfs.{os.uname().nodename}.files").write_text(text)
    touch_all(here)
    assert "kept" in kept(task, changes(task, here)).names


def test_what_is_mounted_over_is_left_out(here: Path, task: Path) -> None:
    shutil.rmtree(here / "old/inner")
    (here / "old/new").write_text("new")
    layer = kept(task, changes(task, here, ["old"]))
    assert (sorted(layer.names), layer.deleted) == ([".", "old"], [])


def test_others_keep_what_is_theirs(here: Path, there: Path, task: Path) -> None:
    """What they wrote later, and what the task never had."""
    for root in (here, there):
        (root / "both").write_text(root.name)
        (root / "old/file").write_text(root.name)
        time.sleep(0.02)
    (here / "old/file").unlink()
    (here / "deleted").unlink()
    (there / "others").mkdir()
    (there / "old/theirs").write_text("theirs")
    (there / "deleted").write_text("again")
    shutil.rmtree(here / "gone")
    (there / "gone/theirs").write_text("theirs")
    time.sleep(0.02)
    layer = kept(task, changes(task, here))
    (there / "deleted").write_text("later")
    Application(layer, str(there)).run()
    found = tree(there)
    contents = {name: row[1] for name, row in found.items() if isinstance(row, tuple)}
    assert contents["both"] == "there"
    assert contents["old/theirs"] == contents["gone/theirs"] == "theirs"
    assert contents["deleted"] == "later"
    assert "others" in contents
    assert "old/file" not in contents  # the task removed it after it was written
    assert "gone/file" not in contents


def test_a_layer_goes_on(here: Path, there: Path, task: Path, tmp_path: Path) -> None:
    """What was there already when the task came, from the layer of another task like it, is in the next one, too."""
    third = Path(shutil.copytree(here, tmp_path / "third", symlinks=True))
    (here / "changed").write_text("once")
    (here / "deleted").unlink()
    first = kept(task, changes(task, here))
    Application(first, str(there)).run()
    time.sleep(0.02)
    (task / "second").mkdir()
    baseline.note(str(task / "second"), str(there))
    second = kept(task / "second", changes(task / "second", there, (), first.names, first.deleted))
    assert (sorted(second.names), second.deleted) == (sorted(first.names), first.deleted)
    Application(second, str(third)).run()
    assert tree(third) == tree(there) == tree(here)
    (there / "deleted").write_text("again")
    assert kept(task / "second", changes(task / "second", there, (), first.names, first.deleted)).deleted == []


def test_what_was_noted_stays(here: Path, there: Path, task: Path) -> None:
    """As long as it is the same root file system."""
    before = (task / f"rootfs.{os.uname().nodename}").read_text()
    baseline.note(str(task), str(here))
    assert (task / f"rootfs.{os.uname().nodename}").read_text() == before
    assert baseline.find(str(task), str(there)) is None
    baseline.note(str(task), str(there))
    assert baseline.find(str(task), str(there))
    assert baseline.find(str(task), str(here)) is None


def test_what_cannot_be_kept(here: Path, there: Path, task: Path) -> None:
    (here / "closed").write_text("mine")
    (here / "closed").chmod(0)
    (here / "new").mkdir(mode=0)
    found = changes(task, here)
    layer = kept(task, found)
    if os.geteuid():
        assert found.skipped == 2
        assert "closed" not in layer.names
    (here / "new").chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="root makes what is somebody else's")
def test_what_is_somebody_elses(here: Path, task: Path) -> None:
    (here / "theirs").write_text("theirs")
    os.chown(here / "theirs", 4711, 4711)
    found = changes(task, here)
    assert "theirs" not in kept(task, found).names
    assert found.skipped == 1


def test_links_lead_nowhere(here: Path, there: Path, task: Path, tmp_path: Path) -> None:
    """Another directory on the way to a file is no way to it."""
    (here / "old/inner/file").write_text("new")
    layer = kept(task, changes(task, here))
    shutil.rmtree(there / "old")
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (there / "old").symlink_to(outside)
    with pytest.raises(Misfit, match=r"/old/inner.* can't be what it was at the checkpoint here: its directory is not"):
        Application(layer, str(there)).run()
    assert list((outside / "inner").iterdir()) == []


def test_a_file_is_in_the_way(here: Path, there: Path, task: Path) -> None:
    """Of a directory that others have put something into."""
    shutil.rmtree(here / "gone")
    (here / "gone").write_text("a file")
    layer = kept(task, changes(task, here))
    (there / "gone/theirs").write_text("theirs")
    with pytest.raises(Misfit, match=r"/gone can't be what it was at the checkpoint here: Directory not empty"):
        Application(layer, str(there)).run()
    assert [path for path in there.iterdir() if path.name.startswith(".stage")] == []


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out"])
def test_no_way_out(there: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "deleted.files").write_text("[]")
    for kind in ("name", "linkname"):
        with tarfile.open(tmp_path / "rootfs-diff.tar", "w") as archive:
            member = tarfile.TarInfo("in")
            member.type = tarfile.LNKTYPE
            setattr(member, kind, name)
            archive.addfile(member)
        with pytest.raises(ShimError, match="has no place in a root file system"):
            Layer(str(tmp_path))
    (tmp_path / "deleted.files").write_text(json.dumps([name]))
    with tarfile.open(tmp_path / "rootfs-diff.tar", "w"):
        pass
    with pytest.raises(ShimError, match="has no place in a root file system"):
        Layer(str(tmp_path))


def test_no_layer(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match=r"rootfs-diff.tar cannot be read"):
        Layer(str(tmp_path))


def test_sockets_and_what_others_are_making(here: Path, task: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(here / "socket"))
        (here / ".stage.node.12.34").write_text("half")
        assert stat.S_ISSOCK((here / "socket").stat().st_mode)
        assert kept(task, changes(task, here)).names == ["."]
