"""Seal images, so that a worker knows again what its step's workers wrote, before an increment leaves it out.

Images belong to the user, and CRIU reads some of them with capabilities. A seal is a keyed hash of those, which the
user can't make. The user can still exchange them between CRIU's writing and the seal, and between the check of the seal
and CRIU's reading: sites whose users may be hostile to CRIU itself set `increments = false`.
"""

from __future__ import annotations

import os
import stat

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux

PARENT = "parent"  # below images: the images that they are an increment of (CRIU's name)
READ = ("pagemap-", "inventory")  # a parent's images that CRIU interprets while it dumps
UNREAD = "pagemap-shmem-"  # shared memory is always whole
DEEPEST = 32  # parents of parents
CHUNK = 1 << 20


def of(key: bytes, images: int, parent: str) -> str:
    """Return the seal, in hexadecimal, of the directory `images` that a dump has just written.

    `parent` is the seal of the images that these are an increment of, or empty. Raise ShimError or OSError if `images`
    can't be sealed.
    """
    return _seal(key, images, parent)


def require(key: bytes, images: int, seal: str) -> None:
    """Raise ShimError unless `seal` is that of the parent below `images`."""
    import hmac

    if not hmac.compare_digest(_of_parent(key, images, 1), seal):
        raise ShimError("the previous checkpoint is not as it was written", "the next one is whole")


def _of_parent(key: bytes, directory: int, depth: int) -> str:
    """Return the seal of the parent below a directory; empty if there is none, which only a parent may lack."""
    if depth > DEEPEST:
        raise ShimError("a checkpoint has too many others below it", "the next one is whole")
    try:
        parent = linux.open_in(directory, PARENT, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        if depth == 1:
            raise
        return ""
    try:
        return _seal(key, parent, _of_parent(key, parent, depth + 1))
    finally:
        os.close(parent)


def _seal(key: bytes, directory: int, parent: str) -> str:
    import hashlib

    digest = hashlib.blake2b(parent.encode(), key=key)
    for name in sorted(linux.names(directory)):
        if name.startswith(READ) and not name.startswith(UNREAD):
            descriptor = linux.open_in(directory, name, os.O_RDONLY | os.O_NONBLOCK)
            try:
                digest.update(f"{name}\n".encode(errors="surrogateescape") + _content(descriptor, name))
            finally:
                os.close(descriptor)
    return digest.hexdigest()


def _content(descriptor: int, name: str) -> bytes:
    import hashlib

    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ShimError(f"the image {name} is not a regular file", "the next checkpoint is whole")
    digest = hashlib.blake2b()
    while data := os.read(descriptor, CHUNK):
        digest.update(data)
    return digest.digest()
