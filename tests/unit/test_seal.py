"""By what a worker knows images again that a dump is to be an increment of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.privileged import seal

KEY = b"key"


@pytest.fixture
def images(tmp_path: Path) -> Iterator[int]:
    """A dump that has been sealed as `tmp_path/parent` is part of what an increment is written to."""
    parent = tmp_path / "parent"
    (parent / "parent").mkdir(parents=True)
    for name in ("inventory.img", "pagemap-1.img", "pagemap-shmem-2.img", "pages-1.img", "parent/pagemap-1.img"):
        (parent / name).write_bytes(name.encode())
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def sealed(images: int) -> str:
    parent = os.open("parent", os.O_RDONLY, dir_fd=images)
    try:
        return seal.of(KEY, parent, seal._of_parent(KEY, parent, 2))
    finally:
        os.close(parent)


def test_as_it_was_written(images: int, tmp_path: Path) -> None:
    before = sealed(images)
    (tmp_path / "parent/pagemap-shmem-2.img").unlink()  # is not handed down
    (tmp_path / "parent/pages-1.img").write_bytes(b"which CRIU does not read")
    seal.require(KEY, images, before)


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda parent: (parent / "pagemap-1.img").write_bytes(b"other"),
    "changed below": lambda parent: (parent / "parent/pagemap-1.img").write_bytes(b"other"),
    "added": lambda parent: (parent / "pagemap-2.img").touch(),
    "removed": lambda parent: (parent / "inventory.img").unlink(),
    "exchanged": lambda parent: (parent / "inventory.img").rename(parent / "inventory"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_not_as_it_was_written(images: int, tmp_path: Path, change: str) -> None:
    before = sealed(images)
    CHANGES[change](tmp_path / "parent")
    with pytest.raises(ShimError, match="not as it was written"):
        seal.require(KEY, images, before)


def test_what_it_says_to_be_an_increment_of(images: int) -> None:
    """A worker seals what it has made with the seal that it was shown, whatever is there by now."""
    parent = os.open("parent", os.O_RDONLY, dir_fd=images)
    without = seal.of(KEY, parent, "")
    os.close(parent)
    with pytest.raises(ShimError, match="not as it was written"):
        seal.require(KEY, images, without)


def test_somebody_else_has_read_the_directory_by_the_same_open_file(images: int) -> None:
    """Another thread of the worker, or the user's process that has sent it."""
    parent = os.open("parent", os.O_RDONLY, dir_fd=images)
    before = seal.of(KEY, parent, "")
    with os.scandir(parent) as entries:
        next(entries)
        assert seal.of(KEY, parent, "") == before
    os.close(parent)


def test_another_s_key(images: int) -> None:
    with pytest.raises(ShimError, match="not as it was written"):
        seal.require(b"other", images, sealed(images))


def test_what_is_no_image(images: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "parent/pagemap-3.img")
    with pytest.raises(ShimError, match="not a regular file"):
        seal.require(KEY, images, "")
    (tmp_path / "parent/pagemap-3.img").unlink()
    (tmp_path / "parent/pagemap-3.img").symlink_to("pagemap-1.img")
    with pytest.raises(OSError, match="symbolic links"):
        seal.require(KEY, images, "")


def test_a_link_is_no_parent(images: int, tmp_path: Path) -> None:
    (tmp_path / "parent").rename(tmp_path / "other")
    (tmp_path / "parent").symlink_to("other")
    with pytest.raises(OSError, match="symbolic links"):
        seal.require(KEY, images, "")


def test_parents_of_parents_end(tmp_path: Path) -> None:
    (tmp_path / "/".join(["parent"] * (seal.DEEPEST + 2))).mkdir(parents=True)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ShimError, match="too many"):
        seal.require(KEY, descriptor, "")
    os.close(descriptor)
