"""Keep the files in the directories that a bare task has for itself, as a tar file of its checkpoint."""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux, namespaces, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import IO

PACK = (
    *("/bin/tar", "--create", "--format=posix", "--sparse", "--one-file-system", "--numeric-owner"),
    *("--warning=no-file-ignored", "--no-wildcards", "--directory=/", "--file=-"),
)
UNPACK = (
    *("/bin/tar", "--extract", "--numeric-owner", "--same-owner", "--preserve-permissions"),
    *("--directory=/", "--file=-"),
)
LONGEST = 300  # characters of what tar says


def pack(pid: int, places: Iterable[str], path: str) -> None:
    """Write the files in the `places` of the frozen task with the init `pid` to the new tar file `path`.

    CRIU keeps sockets, and files without a name. Raise ShimError if it can't be written.
    """
    words = [*PACK, *(place.lstrip("/") for place in places)]

    def start(fds: dict[int, int]) -> int:
        return process.fork(lambda: _become(pid, words, fds))

    with open(path, "xb") as archive:
        if said := _faults(start, {1: archive.fileno()}):
            raise ShimError(f"the files in {' '.join(places)} can't be kept: {said}")


def _become(pid: int, words: list[str], fds: dict[int, int]) -> int:
    """Become tar, with all capabilities in the task's namespaces, since files may be closed to their owner."""
    namespaces.enter(pid, ("user", "mnt"))
    linux.keep_capabilities()
    process.become(words, process.ENVIRONMENT, fds)


def unpack(archive: IO[bytes]) -> None:
    """Put the files of a tar file into the mounts that were made for them. Raise ShimError if that fails."""
    if said := _faults(lambda fds: process.spawn(UNPACK, process.ENVIRONMENT, fds), {0: archive.fileno()}):
        raise ShimError(f"{archive.name} can't be unpacked: {said}", "is there memory enough?")


def _faults(start: Callable[[dict[int, int]], int], fds: dict[int, int]) -> str:
    """Return what a tar that is started with these descriptors says if it fails; an empty string if it doesn't."""
    with open(os.memfd_create("errors"), "r+", encoding="utf-8", errors="replace") as errors:
        status = process.wait(start({**fds, 2: errors.fileno()}))
        errors.seek(0)
        said = " ".join(errors.read().split())[:LONGEST]
        return (said or f"tar ended with {status}") if status else ""
