"""Keep the checkpoints of one task, `<directory>/<job>/<step>.<task>/<seq>/`:

    started               the task has run
    rootfs.<node>         what was in its root file system then: baseline.py
    rootfs.<node>.files   by what each file there is known again
    <seq>/manifest.json   written last; without it there is no checkpoint
         /checksums.json  added after the commit: see integrity.py
         /checkpoint/     CRIU's images; increments.py says what is in parent/ there
         /config.dump     who made it, in the form of podman's archives
         /spec.dump       the container's config.json
         /startup         the batch script, if the container ran one
         /rootfs-diff.tar, /deleted.files   what has changed in the root file system: layer.py

A checkpoint is staged beside the committed ones, under a name that no reader looks at, and flushed. A single rename
then commits it. Several writers may do so at once, on different nodes, without a lock: a rename onto a directory that
is not empty fails, and the next number is tried. Large images may be compressed after that: see compression.py.
"""

from __future__ import annotations

import errno
import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints import integrity, owner, scratch
from oci_criu_shim.checkpoints.committed import IMAGES, Checkpoint, read
from oci_criu_shim.checkpoints.quota import CUT, Quota
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oci_criu_shim.checkpoints.compression import Compression
    from oci_criu_shim.checkpoints.manifest import Draft, Manifest

STARTED = "started"  # the task ran before, so a fresh start would run part of it twice
REFUSED = "restore.log"  # in a checkpoint: the reason why its restore failed, and CRIU's log
GONE = ".gone."


class StoreStage(Stage):
    """The stage of a task's next checkpoint."""

    def __init__(self, store: Store, path: str) -> None:
        self.store = store
        self.quota = Quota(store.quota, store.directory, store.path)
        self.compared: Callable[[], int] = int  # how many bytes adopt() has compared so far
        super().__init__(path, os.path.join(path, IMAGES))
        if store.compression:
            self.codec = store.compression.codec

    def _finish(self, committed: Checkpoint) -> None:
        """Compress the checkpoint if it is now or never, which adds checksums, too; else only add those."""
        compression = self.store.compression
        hurried = compression is not None and compression.hurries(committed.manifest)
        if not (compression and hurried and compression.apply(committed, self.path)):
            super()._finish(committed)

    def commit(self, manifest: Draft) -> Checkpoint:
        """Make this the task's newest checkpoint; raise ShimError if the quota has no room for it."""
        self.quota.require(manifest["bytes"])
        committed = super().commit(manifest)
        self.store.on_commit()
        return committed

    def adopt(self, seq: int = 0) -> Checkpoint:
        """Make a checkpoint that was copied here, with its manifest, the newest; raise ShimError if it is damaged.

        If it has a number, `seq`, already, raise ShimError if it would not be the newest by that.
        """
        copied = read(self.path)
        verification = integrity.Verification(copied)
        verification.start()
        self.compared = verification.hashed
        try:
            self._flush(copied.manifest["files"])
            verification.require()
        finally:
            verification.stop()
        return self._publish(copied.manifest, seq)

    def _publish(self, manifest: Manifest, own: int = 0) -> Checkpoint:
        """Give the checkpoint the next number, or its `own`."""
        files.sync(self.path)
        seq = max(self.store.numbers(), default=0) + 1
        if 0 < own < seq:
            raise ShimError(f"checkpoint {seq - 1} is newer than {own}")
        seq = own or seq
        while not _rename(self.path, path := os.path.join(self.store.path, str(seq))):
            if own:
                raise ShimError(f"checkpoint {own} is there already")
            seq += 1
        try:
            files.sync(self.store.path)
        except OSError:
            self.store.remove(seq)  # the caller is told that there is none
            raise
        return Checkpoint(path, manifest)


class Store:
    """The checkpoints of one task below `directory`; `key` is `<job>/<step>.<task>`.

    All checkpoints in `directory` together may have `quota` bytes; 0 is no limit. `compression` makes what compresses
    them when that is needed: its modules take long to import.
    """

    def __init__(
        self, directory: str, key: str, quota: int = 0, compression: Callable[[], Compression | None] = lambda: None
    ) -> None:
        self.directory = directory
        self.key = key
        self.quota = quota
        self.make_compression = compression
        self.made: list[Compression | None] = []
        self.on_commit: Callable[[], None] = lambda: None  # called as soon as a checkpoint is committed
        self.path = os.path.normpath(os.path.join(directory, key))

    @property
    def compression(self) -> Compression | None:
        """What compresses the checkpoints; None if nothing does."""
        if not self.made:
            self.made.append(self.make_compression())
        return self.made[0]

    def prepare(self, cluster: str = "") -> None:
        """Make the directory of a task of `cluster`; raise ShimError if checkpoints could not be kept there."""
        owner.check(self.directory)
        try:
            if cluster:
                owner.claim(os.path.dirname(self.path), cluster)
            files.make_directories(self.path)
        except OSError as error:
            raise ShimError(f"cannot make {self.path}: {error.strerror}", "choose another --checkpoint-dir") from None
        self.sweep()

    def mark_started(self) -> None:
        """Note, for a restart, that the task has run."""
        files.write_atomically(os.path.join(self.path, STARTED), b"", durable=True)

    def started(self) -> bool:
        """Return whether the task has run before."""
        return os.path.exists(os.path.join(self.path, STARTED))

    def stage(self) -> StoreStage:
        """Return a stage to write the next checkpoint to."""
        return StoreStage(self, self.stage_path())

    def stage_path(self) -> str:
        """Return a path that this process may write to, and that nobody reads."""
        return os.path.join(self.path, scratch.name())

    def numbers(self) -> list[int]:
        """Return the numbers of the committed checkpoints, oldest first."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def newest_first(self) -> Iterable[Checkpoint | ShimError]:
        """Yield every committed checkpoint, the newest first; a ShimError in place of a damaged one."""
        for seq in reversed(self.numbers()):
            try:
                yield read(os.path.join(self.path, str(seq)))
            except ShimError as error:
                yield error

    def keep(self, count: int) -> None:
        """Remove all but the newest `count` checkpoints, or more if those are not within the quota.

        A checkpoint whose restore failed is nothing to fall back on, so it doesn't count; the newest of that kind stays
        for diagnosis.
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
        """Remove the task's checkpoints. What was cut off its files stays until forget()."""
        if not os.path.isdir(os.path.join(self.path, CUT)):
            return self.forget()
        self._remove_all()
        for name in os.listdir(self.path):
            if name != CUT:
                scratch.try_to_remove(os.path.join(self.path, name))

    def forget(self) -> None:
        """Remove the task's directory, and with its last task the job's."""
        self._remove_all()
        scratch.try_to_remove(self.path)
        owner.release(os.path.dirname(self.path))

    def _remove_all(self) -> None:
        for seq in self.numbers():
            self.remove(seq)

    def remove(self, seq: int) -> None:
        """Remove a checkpoint, in two steps, so that no reader finds half of it."""
        gone = f"{self.path}/{GONE}{seq}.{os.uname().nodename}.{os.getpid()}"
        try:
            os.rename(os.path.join(self.path, str(seq)), gone)
        except FileNotFoundError:
            return  # another process was faster
        scratch.try_to_remove(gone)  # else prepare() sweeps

    def sweep(self) -> None:
        """Remove what others were removing, and what writers on this node left that ended too early to do so."""
        scratch.sweep(self.path)
        for name in os.listdir(self.path):
            if name.startswith(GONE):
                scratch.try_to_remove(os.path.join(self.path, name))
        for seq in self.numbers():
            from oci_criu_shim.checkpoints import compression

            compression.sweep(os.path.join(self.path, str(seq)))


def _rename(source: str, target: str) -> bool:
    """Rename `source` to `target`; return False if another writer has taken that name."""
    identity = os.stat(source).st_ino
    try:
        os.rename(source, target)
    except FileNotFoundError:
        # NFS: the server did it, but its answer was lost, and the client asked once more.
        if not os.path.exists(target) or os.stat(target).st_ino != identity:
            raise
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def newest(directory: str) -> Checkpoint | None:
    """Return the newest checkpoint of a task's `directory`, None if it has none; raise ShimError if the newest is
    damaged."""
    for found in Store(directory, ".").newest_first():
        if isinstance(found, ShimError):
            raise found
        return found
    return None
