"""By what a worker knows images of its step's workers again, when a dump is to leave out what they have.

The images are the user's, and CRIU reads some of them with capabilities. A seal is a hash of those that the user can't
make, since it is keyed. He can still change them once it was looked at: sites whose users may be hostile to CRIU itself
set `increments = false`.
"""

from __future__ import annotations

import os
import stat

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import blake2b

PARENT = "parent"  # below images: those that they are an increment of (CRIU's name)
READ = ("pagemap-", "inventory")  # of a parent's, what CRIU interprets while it dumps
UNREAD = "pagemap-shmem-"  # shared memory is always whole
DEEPEST = 32  # parents of parents
CHUNK = 1 << 20


def of(key: bytes, images: int) -> str:
    """The seal of what a dump reads in the directory `images`, in hexadecimal; ShimError, OSError where it can't be."""
    import hashlib

    digest = hashlib.blake2b(key=key)
    _add(digest, images, 0)
    return digest.hexdigest()


def require(key: bytes, images: int, seal: str) -> None:
    """Raise ShimError unless `seal` is that of the parent below `images`."""
    import hmac

    parent = os.open(PARENT, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=images)
    try:
        if not hmac.compare_digest(of(key, parent), seal):
            raise ShimError("the checkpoint before is not as it was written", "the next one is whole")
    finally:
        os.close(parent)


def _add(digest: blake2b, directory: int, depth: int) -> None:
    if depth > DEEPEST:
        raise ShimError("a checkpoint has too many others below it", "the next one is whole")
    for name in sorted(os.listdir(directory)):
        if name == PARENT:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        elif name.startswith(READ) and not name.startswith(UNREAD):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        else:
            continue
        descriptor = os.open(name, flags, dir_fd=directory)
        try:
            digest.update(f"{depth} {name}\n".encode(errors="surrogateescape"))
            if name == PARENT:
                _add(digest, descriptor, depth + 1)
            else:
                digest.update(_content(descriptor, name))
        finally:
            os.close(descriptor)


def _content(descriptor: int, name: str) -> bytes:
    import hashlib

    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ShimError(f"the image {name} is not a regular file", "the next checkpoint is whole")
    digest = hashlib.blake2b()
    while data := os.read(descriptor, CHUNK):
        digest.update(data)
    return digest.digest()
