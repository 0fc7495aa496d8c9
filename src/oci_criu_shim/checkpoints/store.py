"""The checkpoints of one task, `<directory>/<job>/<step>.<task>/<seq>/`:

    started               the task has run
    rootfs.<node>         what was in its root file system then: baseline.py
    <seq>/manifest.json   written last; without it there is no checkpoint
         /checksums.json  added after the commit: see integrity.py
         /checkpoint/     CRIU's images; increments.py says what is in parent/ there
         /config.dump     who made it, in the form of podman's archives
         /spec.dump       the container's config.json
         /startup         the batch script, if it is one's
         /rootfs-diff.tar, /deleted.files   what has changed in the root file system: layer.py

A checkpoint is staged next to the committed ones under a name that no reader looks at, flushed to
disk, and becomes one by a single rename. Several writers may do so at once, on different nodes: no lock is needed,
because a rename onto a directory with something in it fails, and the next number is tried. Large images may be
compressed after that: see compression.py.
"""

from __future__ import annotations

import errno
import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints import integrity, owner, scratch
from oci_criu_shim.checkpoints.committed import BESIDES, IMAGES, MANIFEST, SCRIPT, SPEC, Checkpoint, read
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.checkpoints.quota import CUT, Quota
from oci_criu_shim.checkpoints.writeback import Writeback
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from oci_criu_shim.checkpoints.compression import Compression

STARTED = "started"  # the task ran before, so a fresh start would run part of it twice
REFUSED = "restore.log"  # in a checkpoint: why its restore failed, with CRIU's log
GONE = ".gone."
UNNAMED = ".nfs"  # what NFS calls a file that was removed, such as an empty image, until nobody on the node has it open


class Stage:
    """A checkpoint being written: nothing of it counts before commit()."""

    work: str | None = None  # where CRIU's log and statistics go, if not beside the images
    compression: Compression | None = None

    def __init__(self, store: Store, path: str) -> None:
        self.store = store
        self.path = path
        self.images = os.path.join(path, IMAGES)
        self.quota = Quota(store.quota, store.directory, store.path)
        self.compression = store.compression
        self.about: dict[str, Any] = {}  # what the manifest says besides, of an increment
        try:
            files.make_directories(self.images)
        except OSError:
            scratch.try_to_remove(path)
            raise
        self.writeback = Writeback(self.images)
        self.committed: Checkpoint | None = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.writeback.stop()
        try:
            if self.committed and not self._compress(self.committed):
                integrity.add_checksums(self.committed)
        except OSError:
            pass  # it is as good as its sizes tell
        scratch.try_to_remove(self.path)  # once committed, there is at most what was compressed

    def _compress(self, committed: Checkpoint) -> bool:
        """Where that may be done at once, and was done."""
        if self.compression is None or not self.compression.hurries(committed.manifest):
            return False
        return self.compression.apply(committed, self.path)

    def write(self, name: str, document: Any) -> None:
        """Add `document` as the JSON file `name`."""
        files.write_json(os.path.join(self.path, name), document, durable=True)

    def describe(
        self, config: dict[str, Any], about: dict[str, Any], streams: list[str], script: bytes | None = None
    ) -> None:
        """Add the container's config.json, and who made the checkpoint, as podman's archives have them; the batch
        script, if there is one."""
        self.write(SPEC, config)
        self.write("config.dump", about)
        if script is not None:
            files.write_atomically(os.path.join(self.path, SCRIPT), script, durable=True)

    def sizes(self) -> dict[str, int]:
        """{path below the checkpoint's directory: bytes} of the images, and of what is beside them, written so far."""
        found = [os.path.join(place, name) for place, _, names in os.walk(self.images) for name in names]
        found = [path for path in found if not os.path.basename(path).startswith(UNNAMED)]
        names = [os.path.relpath(path, self.path) for path in sorted(found)]
        names += [name for name in BESIDES if os.path.exists(os.path.join(self.path, name))]
        return {name: os.stat(os.path.join(self.path, name)).st_size for name in names}

    def commit(self, manifest: dict[str, Any]) -> Checkpoint:
        """Flush everything, then make it the task's newest checkpoint. OSError, ShimError: it is none.

        `manifest` is without checksums. Those of large files are added at the stage's end.
        """
        self.quota.require(manifest["bytes"])
        manifest = self._seal(manifest | self.about)
        self.committed = Checkpoint(self._publish(), manifest)
        return self.committed

    def _seal(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Have all of it on disk, the manifest last, with checksums; that manifest."""
        hashing = integrity.small(self.path, manifest["files"])
        try:
            self._flush(manifest["files"])
        except OSError:
            hashing.stop()  # or these files would be open while they are removed
            raise
        manifest = sealed({**manifest, "sha256": hashing.result()})
        self.write(MANIFEST, manifest)
        return manifest

    def adopt(self) -> Checkpoint:
        """Make a checkpoint that was copied here, manifest and all, the newest; ShimError where it is damaged."""
        copied = read(self.path)
        verification = integrity.Verification(copied)
        verification.start()
        try:
            self._flush(copied.manifest["files"])
            verification.require()
        finally:
            verification.stop()
        return Checkpoint(self._publish(), copied.manifest)

    def _flush(self, names: Iterable[str]) -> None:
        self.writeback.stop()
        directories = {self.images}
        for name in names:
            path = os.path.join(self.path, name)
            _sync(path)
            directories.add(os.path.dirname(path))
        for directory in directories:
            files.sync_directory(directory)

    def _publish(self) -> str:
        """Give it the next number; its path."""
        files.sync_directory(self.path)
        seq = max(self.store.numbers(), default=0) + 1
        while not _rename(self.path, path := os.path.join(self.store.path, str(seq))):
            seq += 1
        try:
            files.sync_directory(self.store.path)
        except OSError:
            self.store.remove(seq)  # the caller is told that there is none
            raise
        return path


class Store:
    """The checkpoints of one task below `directory`; `key` is `<job>/<step>.<task>`.

    With `quota` the checkpoints in `directory` may not have more bytes than that.
    """

    def __init__(self, directory: str, key: str, quota: int = 0, compression: Compression | None = None) -> None:
        self.directory = directory
        self.quota = quota
        self.compression = compression
        self.path = os.path.normpath(os.path.join(directory, key))

    def prepare(self, cluster: str = "") -> None:
        """Make the directory of a task of `cluster`; ShimError where checkpoints could not be kept there."""
        owner.check(self.directory)
        try:
            if cluster:
                owner.claim(os.path.dirname(self.path), cluster)
            files.make_directories(self.path)
        except OSError as error:
            raise ShimError(f"cannot make {self.path}: {error.strerror}", "choose another --checkpoint-dir") from None
        self.sweep()

    def mark_started(self) -> None:
        """Remember, for a restart, that the task has run."""
        files.write_atomically(os.path.join(self.path, STARTED), b"", durable=True)

    def started(self) -> bool:
        """Whether the task has run before."""
        return os.path.exists(os.path.join(self.path, STARTED))

    def stage(self) -> Stage:
        """A place to write the next checkpoint to."""
        return Stage(self, self.stage_path())

    def stage_path(self) -> str:
        """Where this process may write what nobody reads."""
        return os.path.join(self.path, scratch.name())

    def numbers(self) -> list[int]:
        """The numbers of the committed checkpoints, oldest first."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def newest_first(self) -> Iterable[Checkpoint | ShimError]:
        """Every committed checkpoint, the newest first; a ShimError in place of a damaged one."""
        for seq in reversed(self.numbers()):
            try:
                yield read(os.path.join(self.path, str(seq)))
            except ShimError as error:
                yield error

    def keep(self, count: int) -> None:
        """Remove all but the newest `count` checkpoints, or fewer where only those are within the quota.

        One whose restore failed is none to fall back on, so it doesn't count; the newest such stays for diagnosis.
        """
        numbers = self.numbers()
        refused = [seq for seq in numbers if os.path.exists(os.path.join(self.path, str(seq), REFUSED))]
        good = [seq for seq in numbers if seq not in refused]
        kept = refused[-1:] + good[-count:]
        for seq in numbers:
            if seq not in kept:
                self.remove(seq)
        quota = Quota(self.quota, self.directory, self.path)
        for seq in kept[:-1]:
            if not quota.is_kept():
                self.remove(seq)

    def clear(self) -> None:
        """Remove the task's checkpoints. What was cut off its files stays, until forget()."""
        if not os.path.isdir(os.path.join(self.path, CUT)):
            return self.forget()
        self._remove_all()
        for name in os.listdir(self.path):
            if name != CUT:
                scratch.try_to_remove(os.path.join(self.path, name))

    def forget(self) -> None:
        """Remove the task's directory, and the job's with its last task."""
        self._remove_all()
        scratch.try_to_remove(self.path)
        owner.release(os.path.dirname(self.path))

    def _remove_all(self) -> None:
        for seq in self.numbers():
            self.remove(seq)

    def remove(self, seq: int) -> None:
        """Remove a checkpoint: in two steps, so that no reader finds half of it."""
        gone = f"{self.path}/{GONE}{seq}.{os.uname().nodename}.{os.getpid()}"
        try:
            os.rename(os.path.join(self.path, str(seq)), gone)
        except FileNotFoundError:
            return  # somebody else was faster
        scratch.try_to_remove(gone)  # else prepare() sweeps

    def sweep(self) -> None:
        """Remove what others were removing, and what writers on this node left that ended before they could."""
        scratch.sweep(self.path)
        for name in os.listdir(self.path):
            if name.startswith(GONE):
                scratch.try_to_remove(os.path.join(self.path, name))
        for seq in self.numbers():
            from oci_criu_shim.checkpoints import compression

            compression.sweep(os.path.join(self.path, str(seq)))


def _rename(source: str, target: str) -> bool:
    """Whether `source` is `target` now; False where another writer has taken that name."""
    identity = os.stat(source).st_ino
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # NFS: the server did it, its answer was lost, and it was asked once more.
        if not os.path.exists(target) or os.stat(target).st_ino != identity:
            raise
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def newest(directory: str) -> Checkpoint | None:
    """The newest checkpoint of a task's `directory`; None where it has none, ShimError where that is damaged."""
    for found in Store(directory, ".").newest_first():
        if isinstance(found, ShimError):
            raise found
        return found
    return None


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
