"""Keep one checkpoint in a directory, laid out as runc and crun do it, so that podman, Docker and those two can read
it:

    <directory>/*.img              CRIU's images
               /descriptors.json   where the three standard streams led
               /manifest.json      ours, written last; images of other runtimes have none
               /checksums.json     added after the commit: see integrity.py
               /parent             with --parent-path: a link to that path (podman makes one of its own)

A dump is staged below the directory, and its files move up when it is complete. So a dump that fails leaves what was
there before.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from oci_criu_shim import files
from oci_criu_shim.checkpoints import committed, integrity, scratch
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host.criu import INVENTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.manifest import Manifest
    from oci_criu_shim.files import Document
    from oci_criu_shim.log import Log

DESCRIPTORS = "descriptors.json"
LOG = "dump.log"  # of CRIU's last dump, in the work directory
MEMORY = ("pages-", "pagemap-")


class Images(committed.Checkpoint):
    """A checkpoint whose images are beside its manifest."""

    @property
    def images(self) -> str:
        """The directory with CRIU's images."""
        return self.path


class DirectoryStage(Stage):
    """A checkpoint that is to take the place of the one in its directory."""

    def __init__(self, directory: Directory, path: str) -> None:
        self.directory = directory
        super().__init__(path, path, directory.work)
        self.about = {"memory_elsewhere": directory.elsewhere}
        self._link(os.path.join(directory.path, directory.parent))

    def describe(self, config: Document, about: Document, streams: list[str], script: bytes | None = None) -> None:
        """Add where the streams lead. podman itself adds what else it knows, and keeps what it has mounted."""
        self.write(DESCRIPTORS, streams)

    def _link(self, parent: str) -> None:
        """Make `parent` a link to what the checkpoint is built upon, if anything."""
        if self.directory.parent:
            link = os.path.join(self.path, committed.PARENT)
            files.remove_if_there(link)
            os.symlink(parent, link)

    def _publish(self, manifest: Manifest) -> committed.Checkpoint:
        """Put the stage's files in the place of those in the directory."""
        files.sync(self.path)
        self._replace(self.directory.path)
        return Images(self.directory.path, manifest)

    def keep(self) -> None:
        """Put a pre-dump in the directory: no checkpoint, but something that one can be built upon."""
        self.writeback.stop()
        self._replace(self.directory.path)

    def _replace(self, target: str) -> None:
        self._link(self.directory.parent)
        for name in sorted(os.listdir(target), key=lambda name: name not in (committed.MANIFEST, INVENTORY)):
            if self.directory.elsewhere and name.startswith(MEMORY):
                continue
            if name.endswith(".img") or name in (committed.MANIFEST, DESCRIPTORS, integrity.CHECKSUMS):
                files.remove_if_there(os.path.join(target, name))
        files.remove_if_there(os.path.join(target, committed.PARENT))
        for name in sorted(os.listdir(self.path), key=lambda name: (name == committed.MANIFEST, name == INVENTORY)):
            os.rename(os.path.join(self.path, name), os.path.join(target, name))
        files.sync(target)


class Directory:
    """The checkpoint in the directory `path`. CRIU's log and statistics go to `work`, or to `path` as well.

    If memory goes `elsewhere`, to a page server, that server may write to `path`, too. `parent`, as seen from `path`,
    is a pre-dump that the checkpoint is built upon.
    """

    def __init__(self, path: str, work: str | None = None, *, elsewhere: bool = False, parent: str = "") -> None:
        self.elsewhere = elsewhere
        self.path = os.path.abspath(path)
        self.parent = parent
        self.work = os.path.abspath(work or path)

    def prepare(self) -> None:
        """Make the directories, and remove what a writer left that ended too early to do so."""
        for directory in (self.path, self.work):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        if self.parent and not os.path.isdir(os.path.join(self.path, self.parent)):
            hint = "--parent-path is the directory of a pre-dump, as seen from --image-path"
            raise ShimError(f"cannot build upon {self.parent}, which is no directory", hint)
        scratch.sweep(self.path)

    @contextmanager
    def log_at(self, path: str | None, log: Log) -> Iterator[None]:
        """Have CRIU's log of a dump in the block at `path` as well, whatever comes of the dump."""
        try:
            yield
        finally:
            try:
                if path:
                    with open(os.path.join(self.work, LOG), "rb") as stream:
                        files.write_atomically(path, stream.read())
            except OSError as error:
                log.error(f"CRIU's log is not at {path}: {error.strerror}")

    def stage(self) -> DirectoryStage:
        """Return a stage to write the checkpoint to."""
        return DirectoryStage(self, os.path.join(self.path, scratch.name()))

    def read(self) -> Images | None:
        """Return the checkpoint that we wrote here, None if another runtime did; raise ShimError if there is none."""
        if not os.path.exists(os.path.join(self.path, INVENTORY)):
            raise ShimError(f"no checkpoint in {self.path}", "the verb `checkpoint` makes one")
        if not os.path.exists(os.path.join(self.path, committed.MANIFEST)):
            return None
        return Images(self.path, committed.read(self.path).manifest)


@contextmanager
def joined(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """Yield the checkpoint with everything it is built upon below its images: a restore of ours would not see what is
    beside them."""
    link = os.path.join(checkpoint.images, committed.PARENT)
    if not os.path.islink(link):
        yield checkpoint
        return
    if not os.path.isdir(link):
        raise ShimError(
            f"{checkpoint.images} is built upon {os.readlink(link)}, which is not there",
            "put what --parent-path named back in its place",
        )
    path = os.path.join(os.path.dirname(checkpoint.images), scratch.name())
    try:
        try:
            files.link_tree(checkpoint.images, path)
        except OSError as error:
            raise ShimError(
                f"{checkpoint.images} can't be joined with what it is built upon: {line_of(error)}",
                f"{os.path.dirname(path)} must be writable",
            ) from None
        yield Images(path, checkpoint.manifest)
    finally:
        files.remove_tree(path)
