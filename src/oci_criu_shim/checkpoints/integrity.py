"""Take and compare checksums of a checkpoint's files: SHA-256 of each piece of a file; a small file is one piece.

If the processor has instructions for it, that runs at 1 GiB/s a core, twice as fast as BLAKE2; hashlib releases the
interpreter's lock, so threads hash the pieces side by side. A second for each GiB is still too long while a container
is frozen in its grace time, and hashing beside CRIU slows it down if no processor is free. So the manifest has only the
checksums of small files, which are those that CRIU interprets. Those of the large files, mostly memory, are taken from
the page cache when the container has ended, and added as `checksums.json`. If the writer is killed before that, the
checkpoint is whole, but not verified.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.errors import Damaged, cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.checkpoints.committed import Checkpoint

LARGE = 1 << 20  # bytes; files of this size or more have their checksums beside the manifest
PIECE = 1 << 24
BUFFER = 1 << 20
CHECKSUMS = "checksums.json"


class Hashing:
    """Threads, one for each processor that we may use, that hash the files `sizes` ({name: bytes}) of `directory`."""

    def __init__(self, directory: str, sizes: Mapping[str, int]) -> None:
        import threading  # these two take long to import, and a start needs neither

        self.directory = directory
        self.bytes = 0  # hashed so far
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

    def result(self) -> dict[str, list[str]]:
        """Wait for the end and return {name: checksums of its pieces}; raise OSError if a file can't be read."""
        for thread in self.threads:
            thread.join()
        if self.failure is not None:
            raise self.failure
        return self.found

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
                self.found[name][number] = self._hash(os.path.join(self.directory, name), number * PIECE, buffer)
            except IndexError:
                return  # another thread took the last one
            except OSError as error:
                self.failure = error
                self.stopped = True

    def _hash(self, path: str, offset: int, buffer: memoryview) -> str:
        import hashlib

        digest, end = hashlib.sha256(), offset + PIECE
        with open(path, "rb", buffering=0) as stream:
            stream.seek(offset)
            while not self.stopped and (size := stream.readinto(buffer[: end - offset])):
                digest.update(buffer[:size])
                offset += size
                self.bytes += size
        return digest.hexdigest()


def small(directory: str, sizes: Mapping[str, int]) -> Hashing:
    """Begin to hash those files of `sizes` whose checksums a manifest has: the ones that are not large."""
    return Hashing(directory, {name: size for name, size in sizes.items() if size < LARGE})


def large(checkpoint: Checkpoint) -> dict[str, int]:
    """Return {name: bytes} of the files whose checksums are not in the manifest."""
    sizes, known = checkpoint.manifest["files"], checkpoint.manifest["sha256"]
    return {name: size for name, size in sizes.items() if name not in known}


def add_checksums(checkpoint: Checkpoint) -> None:
    """Hash the large files of a committed checkpoint, and add their checksums to those that it has."""
    known = checksums(checkpoint)
    sizes = {name: size for name, size in large(checkpoint).items() if name not in known}
    write_checksums(checkpoint.path, known | Hashing(checkpoint.path, sizes).result())


def write_checksums(path: str, found: Mapping[str, list[str]]) -> None:
    """Make `found` the checksums of the large files in the checkpoint `path`."""
    files.write_json(os.path.join(path, CHECKSUMS), sealed({"piece": PIECE, "sha256": found}), durable=True)


def checksums(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Return the checksums of the large files, none if they were not taken; raise ShimError if checksums.json is
    damaged."""
    name = os.path.join(checkpoint.path, CHECKSUMS)
    try:
        document = files.read_json(name)
        if document != sealed(document) or document["piece"] != PIECE:
            raise ValueError("its checksum is not what it was")
        found: dict[str, list[str]] = dict(document["sha256"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Damaged(f"{name} is damaged: {cause_of(error)}") from None
    return found


class Verification:
    """Compares a checkpoint's files with their checksums.

    Files that CRIU interprets are verified at once; ShimError is raised if one is damaged. The large files, memory that
    CRIU only copies, are verified from start() to require(), while CRIU restores them: no process may run before that.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.hashing: Hashing | None = None  # that nobody has waited for
        self.begun: Hashing | None = None
        known = checkpoint.manifest["sha256"]
        self.wanted = {**checksums(checkpoint), **known}
        self._compare(Hashing(checkpoint.path, {name: checkpoint.manifest["files"].get(name, 0) for name in known}))

    @property
    def complete(self) -> bool:
        """Whether every file has a checksum."""
        manifest = self.checkpoint.manifest
        return set(self.wanted) >= set(manifest["files"]) and not manifest.get("memory_elsewhere")

    def start(self) -> None:
        """Begin to hash the large files."""
        sizes = {name: size for name, size in large(self.checkpoint).items() if name in self.wanted}
        self.begun = self.hashing = Hashing(self.checkpoint.path, sizes)

    def hashed(self) -> int:
        """Return how many bytes of the large files are hashed so far."""
        return self.begun.bytes if self.begun else 0

    def require(self) -> None:
        """Wait for the hashes; raise ShimError, with the file's name, if a file is damaged. The second call does
        nothing."""
        hashing, self.hashing = self.hashing, None
        if hashing is not None:
            self._compare(hashing)

    def stop(self) -> None:
        """End the threads, whatever they have found."""
        if self.hashing is not None:
            self.hashing.stop()

    def _compare(self, hashing: Hashing) -> None:
        try:
            found = hashing.result()
        except OSError as error:
            raise Damaged(f"{error.filename or self.checkpoint.path}: {error.strerror}") from None
        for name in sorted(found):
            if found[name] != self.wanted[name]:
                raise Damaged(f"{self.checkpoint.path}/{name} is damaged: its checksum is not what it was")
