"""Stream a container's root file system as a tar file into an archive, without a copy of it anywhere."""

from __future__ import annotations

import io
import os
import tarfile

from oci_criu_shim.checkpoints.tar import PIECE, header, padding
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from oci_criu_shim.checkpoints.layer import Layer

HINT = "without --rootfs the archive is for nodes that have the bundle"


class Tree:
    """The directory `root` and everything below it, as a tar file of `size` bytes. Files in `lengths` ({path below it:
    bytes}) are cut to that length, and what `layer` has changed, if there is one, takes the place of what is there.
    ShimError is raised if a file can't be read."""

    def __init__(self, root: str, lengths: Mapping[str, int], layer: Layer | None = None) -> None:
        self.root = root
        self.lengths = lengths
        self.layer = layer
        self.members = list(self._members({*layer.names, *layer.deleted} if layer else set()))
        contents = sum(len(padding(member.size)) + member.size for member in self.members)
        end = os.path.getsize(layer.file) if layer else 2 * tarfile.BLOCKSIZE
        self.size = sum(len(header(member)) for member in self.members) + contents + end

    def _members(self, without: set[str]) -> Iterator[tarfile.TarInfo]:
        links = tarfile.open(fileobj=io.BytesIO(), mode="w")  # it recognises hard links
        for directory, names, others in os.walk(self.root, onerror=_refuse):
            linked = [name for name in names if os.path.islink(os.path.join(directory, name))]
            for path in (directory, *(os.path.join(directory, name) for name in (*linked, *others))):
                name = os.path.relpath(path, self.root)
                member = links.gettarinfo(path, name) if name not in without else None
                if member is None:
                    continue  # the layer has it, or it is a socket: nobody will listen there
                if member.isreg():
                    if not os.access(path, os.R_OK):
                        raise ShimError(f"{path} is not yours to read", HINT)
                    member.size = min(member.size, self.lengths.get(member.name, member.size))
                member.mtime = int(member.mtime)
                member.uname = member.gname = ""
                yield member

    def stream(self) -> io.BufferedReader:
        """Return the tar file as a stream, to be read once."""
        return io.BufferedReader(_Joined(self._pieces()), PIECE)

    def _pieces(self) -> Iterator[bytes]:
        for member in self.members:
            yield header(member)
            if member.isreg():
                yield from _content(os.path.join(self.root, member.name), member.size)
                yield padding(member.size)
        if self.layer:
            yield from _content(self.layer.file, os.path.getsize(self.layer.file))
        else:
            yield bytes(2 * tarfile.BLOCKSIZE)


class _Joined(io.RawIOBase):
    """A stream of the bytes of all `pieces`."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed allows any buffer
        while not self.rest:
            try:
                self.rest = next(self.pieces)
            except StopIteration:
                return 0
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def _content(path: str, size: int) -> Iterator[bytes]:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        while size:
            piece = stream.read(min(size, PIECE))
            if not piece:
                raise ShimError(f"{path} became shorter while it was read", "export once more")
            size -= len(piece)
            yield piece


def _refuse(error: OSError) -> None:
    raise ShimError(f"{error.filename}: {error.strerror}", HINT)
