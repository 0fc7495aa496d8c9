"""Paths of what a process watches, by numbers."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts, process, watches
from oci_criu_shim.privileged import guard

libc = ctypes.CDLL(None, use_errno=True)
FANOTIFY = "fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:40000000 fhandle-bytes:8"
MOUNT = "fanotify mnt_id:12 mflags:0 mask:3b ignored_mask:40000000"


@pytest.fixture
def watch() -> Iterator[Callable[[Path], None]]:
    watcher = libc.inotify_init1(os.O_CLOEXEC)
    yield lambda path: libc.inotify_add_watch(watcher, bytes(path), 0x102)
    os.close(watcher)


def test_what_the_kernel_says() -> None:
    inotify = "inotify wd:1 ino:2f sdev:fd00001 mask:306 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:9"
    assert list(watches.marks(["pos:\t0", inotify, FANOTIFY, MOUNT])) == [(0xFD00001, 0x2F), (0x800013, 0x4F969)]


def test_a_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[[Path], None]) -> None:
    """Below the working directory, not a link to it; nothing that was removed."""
    (tmp_path / "some/where").mkdir(parents=True)
    (tmp_path / "some/file").touch()
    (tmp_path / "a").symlink_to("some/file")
    (tmp_path / "removed").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("some/where", "some/file", "removed"):
        watch(tmp_path / name)
    with (tmp_path / "removed").open():
        (tmp_path / "removed").unlink()
        watched = watches.of(os.getpid())
        found = watches.find(os.getpid(), watched, 1)
    if len(found) < 2:
        pytest.skip("numbers of this file system differ from those that the kernel tells")
    assert len(watched) == 3
    assert sorted(found.values()) == [str(tmp_path / "some/file"), str(tmp_path / "some/where")]


def test_nothing_is_watched() -> None:
    assert watches.of(os.getpid()) == set()
    assert watches.of(1 << 22) == set()
    assert not watches.find(os.getpid(), set())


def no_directory(_: str) -> list[str]:
    raise PermissionError("only root's")


def test_a_process_that_may_not_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", no_directory)
    with pytest.raises(PermissionError):
        watches.of(os.getpid())


def test_one_that_is_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, and has no memory any more."""
    monkeypatch.setattr(os, "listdir", no_directory)
    monkeypatch.setattr(process, "status", lambda _: {"State": ["R", "(running)"]})
    assert watches.of(os.getpid()) == set()


def test_a_descriptor_that_was_closed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda _: ["1048576"])
    monkeypatch.setattr(watches, "_link", lambda _: watches.LINKS[0])
    assert watches.of(os.getpid()) == set()


def test_a_working_directory_elsewhere_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Than on the watched file systems: it may be on one that does not answer."""
    mounted = mounts.parse("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:40 / /hangs rw - fuse x rw\n")
    monkeypatch.setattr(process, "tree", lambda _: [7])
    monkeypatch.setattr(watches, "_link", lambda _: "/hangs/there")
    assert list(watches._own(7, mounted, {8 << 20 | 1})) == []
    assert list(watches._own(7, mounted, {40})) == ["/hangs/there"]


def test_a_link_in_the_place_of_a_directory(tmp_path: Path) -> None:
    """It would lead out of the container."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "root/directory").mkdir(parents=True)
    for name in ("outside/file", "root/directory/file"):
        (tmp_path / name).touch()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    root = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    try:
        found = [[entry.name for entry in watches._entries(root, path)] for path in ("/directory", "/link")]
        numbers = [watches._identity(root, path)[1] for path in ("/directory/file", "/link/file", "/link")]
    finally:
        os.close(root)
    assert found == [["file"], []]
    link = (tmp_path / "root/link").lstat()
    assert numbers == [(tmp_path / "root/directory/file").stat().st_ino, 0, link.st_ino]


def test_no_longer_than_allowed(tmp_path: Path, watch: Callable[[Path], None]) -> None:
    watch(tmp_path)
    assert len(watches.find(os.getpid(), watches.of(os.getpid()) | {(0, 1)}, 0)) <= 1


def test_what_criu_is_told() -> None:
    mark = guard.Guard()
    mark.tell(b"image")
    assert mark.mark[48:61] == struct.pack("=Q", 5) + b"image"
    with pytest.raises(ShimError, match="watch too many files"):
        mark.tell(bytes((1 << 20) + 1))
