"""Take and compare checksums of a checkpoint's files, one of each piece of a file; a small file is one piece.

They find accidents, and no attacker: who writes a checkpoint owns its files, and could change both. So the large files,
mostly memory, have XXH3 of 128 bits if this node has python3-xxhash: a core computes it in less time than it takes to
read them from the page cache. Else they have SHA-256, which takes several times as long; small files always do.

Even so, hashing beside CRIU slows it down if no processor is free, while a container is frozen in its grace time. So
the manifest has only the checksums of small files, which are those that CRIU interprets. Those of the large files are
taken from the page cache when the container has ended, and added as `checksums.json`. If the writer is killed before
that, the checkpoint is whole, but not verified.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.errors import Damaged, cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Protocol, TypeAlias

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.files import Document

    Sums: TypeAlias = tuple[str, list[str]]  # the kind of a file's checksums, and those of its pieces

    class Digest(Protocol):
        """What computes a checksum, of hashlib's or xxhash's."""

        def update(self, data: memoryview, /) -> None:
            """Take more bytes."""

        def hexdigest(self) -> str:
            """Return the checksum of all bytes, in hexadecimal digits."""


LARGE = 1 << 20  # bytes; files of this size or more have their checksums beside the manifest
PIECE = 1 << 24
BUFFER = 1 << 20
CHECKSUMS = "checksums.json"
SHA256, XXH3 = KINDS = "sha256", "xxh3"  # as documents call them
PACKAGE = "python3-xxhash"


def maker(kind: str) -> Callable[[], Digest]:
    """Return what makes digests of a kind; raise ImportError if this node has no library for it."""
    if kind == SHA256:
        import hashlib

        return hashlib.sha256
    from xxhash import xxh3_128

    return xxh3_128


def kinds() -> tuple[str, ...]:
    """Return the kinds that this node has libraries for, the fastest last."""
    try:
        maker(XXH3)
    except ImportError:
        return (SHA256,)
    return KINDS


class Pieces:
    """Takes the checksums of the pieces of a file, of which it is given all bytes in order."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.make = maker(kind)
        self.digests = [self.make()]
        self.room = PIECE  # in the last of them

    def update(self, data: bytes) -> None:
        """Take more bytes."""
        view = memoryview(data)
        while view:
            if not self.room:
                self.digests.append(self.make())
                self.room = PIECE
            part = view[: self.room]
            self.digests[-1].update(part)
            self.room -= len(part)
            view = view[len(part) :]

    def result(self) -> Sums:
        """Return the file's checksums."""
        return self.kind, [digest.hexdigest() for digest in self.digests]


class Hashing:
    """Threads, one for each processor that we may use, that hash the files `sizes` ({name: bytes}) of `directory`.

    `wanted` has the kinds of their checksums ({name: kind}); by default, it is the fastest that this node has.
    """

    def __init__(self, directory: str, sizes: Mapping[str, int], wanted: Mapping[str, str] | None = None) -> None:
        import threading  # these two take long to import, and a start needs neither

        self.directory = directory
        self.bytes = 0  # hashed so far
        self.kinds = dict.fromkeys(sizes, kinds()[-1]) if wanted is None else wanted
        self.makers = {kind: maker(kind) for kind in set(self.kinds.values())}
        self.found = {name: [""] * max(-(-size // PIECE), 1) for name, size in sizes.items()}
        self.pieces = [(name, number) for name, pieces in self.found.items() for number in range(len(pieces))]
        self.pieces.reverse()  # pop() takes the last
        self.failure: OSError | None = None
        self.stopped = False
        count = min(len(os.sched_getaffinity(0)), len(self.pieces))
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    @property
    def running(self) -> bool:
        """Whether any thread is still at work."""
        return any(thread.is_alive() for thread in self.threads)

    def result(self) -> dict[str, Sums]:
        """Wait for the end and return {name: its checksums}; raise OSError if a file can't be read."""
        for thread in self.threads:
            thread.join()
        if self.failure is not None:
            raise self.failure
        return {name: (self.kinds[name], pieces) for name, pieces in self.found.items()}

    def stop(self) -> None:
        """End the threads early; there is no result then."""
        self.stopped = True
        for thread in self.threads:
            thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(BUFFER))
        while self.pieces and not self.stopped:
            try:
                name, number = self.pieces.pop()
                self.found[name][number] = self._hash(name, number * PIECE, buffer)
            except IndexError:
                return  # another thread took the last one
            except OSError as error:
                self.failure = error
                self.stopped = True

    def _hash(self, name: str, offset: int, buffer: memoryview) -> str:
        digest, end = self.makers[self.kinds[name]](), offset + PIECE
        with open(os.path.join(self.directory, name), "rb", buffering=0) as stream:
            stream.seek(offset)
            while not self.stopped and (size := stream.readinto(buffer[: end - offset])):
                digest.update(buffer[:size])
                offset += size
                self.bytes += size
        return digest.hexdigest()


def small(directory: str, sizes: Mapping[str, int]) -> Hashing:
    """Begin to hash those files of `sizes` whose checksums a manifest has, by SHA-256: the ones that are not large."""
    ours = {name: size for name, size in sizes.items() if size < LARGE}
    return Hashing(directory, ours, dict.fromkeys(ours, SHA256))


def large(checkpoint: Checkpoint) -> dict[str, int]:
    """Return {name: bytes} of the files whose checksums are not in the manifest."""
    sizes, known = checkpoint.manifest["files"], checkpoint.manifest["sha256"]
    return {name: size for name, size in sizes.items() if name not in known}


def add_checksums(checkpoint: Checkpoint) -> None:
    """Hash the large files of a committed checkpoint, and add their checksums to those that it has."""
    known = checksums(checkpoint)
    sizes = {name: size for name, size in large(checkpoint).items() if name not in known}
    write_checksums(checkpoint.path, known | Hashing(checkpoint.path, sizes).result())


def write_checksums(path: str, found: Mapping[str, Sums]) -> None:
    """Make `found` the checksums of the large files in the checkpoint `path`."""
    files.write_json(os.path.join(path, CHECKSUMS), document(found), durable=True)


def document(found: Mapping[str, Sums]) -> Document:
    """Return the content of a checksums.json. Each kind is there, if only by name: versions up to 0.2 want SHA-256,
    and take files that have none for not verified."""
    named = {kind: {name: pieces for name, (of, pieces) in found.items() if of == kind} for kind in KINDS}
    return sealed({"piece": PIECE, **named})


def checksums(checkpoint: Checkpoint) -> dict[str, Sums]:
    """Return the checksums of the large files, none if they were not taken; raise ShimError if checksums.json is
    damaged."""
    name = os.path.join(checkpoint.path, CHECKSUMS)
    try:
        found = files.read_json(name)
        if found != sealed(found) or found["piece"] != PIECE:
            raise ValueError("its checksum is not what it was")
        return {name: (kind, pieces) for kind in KINDS for name, pieces in found.get(kind, {}).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Damaged(f"{name} is damaged: {cause_of(error)}") from None


class Verification:
    """Compares a checkpoint's files with their checksums.

    Files that CRIU interprets are verified at once; ShimError is raised if one is damaged. The large files, memory that
    CRIU only copies, are verified by follow() if they are unpacked, the others from start() to require(), while CRIU
    restores them: no process may run before that.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.hashing: Hashing | None = None  # that nobody has waited for
        self.begun: Hashing | None = None
        self.small = checkpoint.manifest["sha256"]
        self.known = checksums(checkpoint) | {name: (SHA256, pieces) for name, pieces in self.small.items()}
        here = kinds()
        self.wanted = {name: sums for name, sums in self.known.items() if sums[0] in here}
        self.followed: set[str] = set()
        sizes = {name: checkpoint.manifest["files"].get(name, 0) for name in self.small}
        self._require(Hashing(checkpoint.path, sizes, dict.fromkeys(sizes, SHA256)))

    @property
    def gap(self) -> str:
        """Why not every file is verified; empty if every one is."""
        names, elsewhere = set(self.checkpoint.manifest["files"]), self.checkpoint.manifest.get("memory_elsewhere")
        if elsewhere or not names <= set(self.known):
            return "it has no checksums of its memory"
        return "" if names <= set(self.wanted) else f"the checksums of its memory need {PACKAGE}, which is missing here"

    def follow(self, name: str, chunks: Iterable[bytes]) -> None:
        """Go through `chunks`, which are all bytes of a file, in order, that somebody else reads. Raise ShimError if it
        is a large one and damaged; else that needs no start() any more."""
        pieces = Pieces(self.wanted[name][0]) if name in self.wanted and name not in self.small else None
        for data in chunks:
            if pieces:
                pieces.update(data)
        if pieces:
            self._compare({name: pieces.result()})
            self.followed.add(name)

    def start(self) -> None:
        """Begin to hash the large files that nobody has followed."""
        sizes = large(self.checkpoint)
        left = {name: size for name, size in sizes.items() if name in self.wanted and name not in self.followed}
        self.begun = self.hashing = Hashing(self.checkpoint.path, left, {name: self.wanted[name][0] for name in left})

    def hashed(self) -> int:
        """Return how many bytes of the large files are hashed so far."""
        return self.begun.bytes if self.begun else 0

    def require(self) -> None:
        """Wait for the hashes; raise ShimError, with the file's name, if a file is damaged. The second call does
        nothing."""
        hashing, self.hashing = self.hashing, None
        if hashing is not None:
            self._require(hashing)

    def stop(self) -> None:
        """End the threads, whatever they have found."""
        if self.hashing is not None:
            self.hashing.stop()

    def _require(self, hashing: Hashing) -> None:
        try:
            found = hashing.result()
        except OSError as error:
            raise Damaged(f"{error.filename or self.checkpoint.path}: {error.strerror}") from None
        self._compare(found)

    def _compare(self, found: Mapping[str, Sums]) -> None:
        for name in sorted(found):
            if found[name] != self.wanted[name]:
                raise Damaged(f"{self.checkpoint.path}/{name} is damaged: its checksum is not what it was")
