"""Write a checkpoint, of which nothing counts before it is committed."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints import integrity, scratch
from oci_criu_shim.checkpoints.committed import ABOUT, BESIDES, MANIFEST, SCRIPT, SPEC
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.checkpoints.writeback import Writeback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Protocol, Self

    from oci_criu_shim.checkpoints.codec import Codec
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.manifest import Draft, Extra, Manifest
    from oci_criu_shim.files import Document

    class PagesFile(Protocol):
        """A file of pages that is being written, frame by frame."""

        def add(self, frame: bytes) -> None:
            """Write the next frame."""

        def end(self) -> None:
            """Complete it."""

        def close(self) -> None:
            """Let go of it, complete or not."""

    class Destination(Protocol):
        """Where the pages of a dump go (dump/page_server.py)."""

        def pack(self, data: memoryview) -> bytes:
            """Make a frame of pages. Threads share it."""

        def open(self, name: str) -> PagesFile:
            """Begin the file that CRIU calls `name`."""


ROOM = 1 << 20  # bytes, by which a full disk is known
UNNAMED = ".nfs"  # how NFS names a file that was removed, such as an empty image, while it is open on the node


class Stage:
    """A checkpoint that is being written to `path`, until the block ends.

    CRIU's images go to `images`. Its log and statistics go to `work`, or beside the images if that is None.
    """

    def __init__(self, path: str, images: str, work: str | None = None) -> None:
        self.path = path
        self.images = images
        self.work = work
        self.about: Extra = {}  # what the manifest has besides
        self.codec: Codec | None = None  # by which memory may be compressed on its way here
        self.target: Destination | None = None  # where memory goes instead, if anywhere
        try:
            files.make_directories(images)
        except OSError:
            scratch.try_to_remove(path)
            raise
        self.writeback = Writeback(images)
        self.committed: Checkpoint | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writeback.stop()
        try:
            if self.committed:
                self._finish(self.committed)
        except OSError:
            pass  # then only the sizes of its large files can be checked
        scratch.try_to_remove(self.path)  # once it is committed, there is at most what was compressed

    def _finish(self, committed: Checkpoint) -> None:
        """Add what a committed checkpoint does without at first: checksums of its large files."""
        integrity.add_checksums(committed)

    def write(self, name: str, document: object) -> None:
        """Add `document` as the JSON file `name`."""
        files.write_json(os.path.join(self.path, name), document, durable=True, indent=1)

    def describe(self, config: Document, about: Document, streams: list[str], script: bytes | None = None) -> None:
        """Add what is known before the dump: the container's config.json, who makes the checkpoint, where its standard
        streams lead, and its batch script, if it has one: the files that podman's archives have, and the script."""
        self.write(SPEC, config)
        self.write(ABOUT, about)
        if script is not None:
            files.write_atomically(os.path.join(self.path, SCRIPT), script, durable=True)

    def require_room(self) -> None:
        """Raise OSError if the disk is full. NFS tells CRIU so only by close(2), which it doesn't hear, and may lose
        what was written (Linux 7.2)."""
        files.write_atomically(os.path.join(self.path, "room"), bytes(ROOM), durable=True)

    def sizes(self) -> dict[str, int]:
        """Return {path below the checkpoint's directory: bytes} of what is written so far: the images and the files
        beside them."""
        found = [os.path.join(place, name) for place, _, names in os.walk(self.images) for name in names]
        found = [path for path in found if not os.path.basename(path).startswith(UNNAMED)]
        names = [os.path.relpath(path, self.path) for path in sorted(found)]
        names += [name for name in BESIDES if os.path.exists(os.path.join(self.path, name))]
        return {name: os.stat(os.path.join(self.path, name)).st_size for name in names}

    def commit(self, manifest: Draft) -> Checkpoint:
        """Flush everything, and make it a checkpoint. If OSError or ShimError is raised, it is none.

        Checksums of large files are added when the stage ends.
        """
        self.committed = self._publish(self._seal({**manifest, **self.about}))
        return self.committed

    def _publish(self, manifest: Manifest) -> Checkpoint:
        """Give files that are complete and on disk the place that readers look at."""
        raise NotImplementedError

    def _seal(self, manifest: Draft) -> Manifest:
        """Flush everything, write the manifest last, and return it with its checksums."""
        local = self._local(manifest["files"])
        hashing = integrity.small(self.path, {name: manifest["files"][name] for name in local})
        try:
            self._flush(local)
        except OSError:
            hashing.stop()  # or these files would be open while they are removed
            raise
        sums = {name: pieces for name, (_, pieces) in hashing.result().items()}
        whole: Manifest = {**manifest, "sha256": sums, "checksum": ""}
        whole = sealed(whole)
        self.write(MANIFEST, whole)
        return whole

    def _local(self, names: Collection[str]) -> Collection[str]:
        """Return those of the files that are here."""
        return names

    def _flush(self, names: Collection[str]) -> None:
        self.writeback.stop()
        directories = {self.images}
        for name in names:
            path = os.path.join(self.path, name)
            files.sync(path)
            directories.add(os.path.dirname(path))
        for directory in directories:
            files.sync(directory)
