"""Write a checkpoint to the node's own disk first, and copy it to the task's others after that.

It is in a directory of holding.py, and counts for nothing until it is copied.
"""

from __future__ import annotations

import os
import stat
import time

from oci_criu_shim import files, units
from oci_criu_shim.checkpoints import integrity, scratch
from oci_criu_shim.checkpoints.committed import IMAGES, Checkpoint
from oci_criu_shim.checkpoints.quota import Quota
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.checkpoints.store import STARTED, Store
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts
from oci_criu_shim.transfer import holding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.checkpoints.compression import Compression
    from oci_criu_shim.checkpoints.manifest import Draft, Manifest

SPARE = 1.05  # times the memory must be free
ABANDONED = 3600.0  # seconds after which whoever was to write here has ended


class Local:
    """The directory `directory` on the node's own disk, for the next checkpoint of `store`, of `size` bytes of memory.

    `made` is told of the directory in which it will be, before anything is in it, and `committed` of the path that it
    will be copied to, and of the checkpoint, while all is frozen; if that raises an error, there is none.

    Raise ShimError or OSError if it is not fit for it.
    """

    def __init__(
        self,
        directory: str,
        store: Store,
        size: int,
        made: Callable[[str], None],
        committed: Callable[[str, Checkpoint], None],
    ) -> None:
        require_fit(directory, size)
        _require_lasting(directory, store.key.partition("/")[0])
        self.directory = directory
        self.store = store
        self.made = made
        self.committed = committed

    def target(self, found: Checkpoint) -> str:
        """Return the path that it will be copied to."""
        return os.path.join(self.store.path, str(found.seq))

    def facts(self, found: Checkpoint) -> dict[str, object]:
        """Return what the job's history has of the checkpoint: where it will be, and where it is now."""
        return {"path": self.target(found), "local": found.path}

    def stage(self) -> LocalStage:
        """Return the stage of that checkpoint."""
        sweep(self.directory)
        base = holding.make(self.directory, self.store.directory, self.store.key)
        try:
            self.made(base)
            return LocalStage(self, base)
        except BaseException:
            scratch.try_to_remove(base)
            raise


class LocalStage(Stage):
    """A checkpoint that is written to the directory `base`."""

    def __init__(self, local: Local, base: str) -> None:
        self.local = local
        self.base = base
        self.quota = Quota(local.store.quota, local.store.directory, local.store.path)
        path = os.path.join(base, scratch.name())
        super().__init__(path, os.path.join(path, IMAGES))

    def __exit__(self, *about: object) -> None:
        super().__exit__(*about)
        if not self.committed:
            scratch.try_to_remove(self.base)

    def commit(self, manifest: Draft) -> Checkpoint:
        """Make this the checkpoint that is to be copied; raise ShimError if the quota has no room for the copy."""
        self.quota.require(manifest["bytes"])
        return super().commit(manifest)

    def _publish(self, manifest: Manifest) -> Checkpoint:
        files.sync(self.path)
        path = os.path.join(self.base, str(max(self.local.store.numbers(), default=0) + 1))
        os.rename(self.path, path)
        found = Checkpoint(path, manifest)
        try:
            files.sync(self.base)
            self.local.committed(self.local.target(found), found)
        except BaseException:
            os.rename(path, self.path)
            raise
        return found


def require_fit(directory: str, size: int) -> None:
    """Raise ShimError or OSError unless a user's files are safe from others in `directory`, and there is room."""
    found = os.stat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise ShimError(f"{directory} is no directory of root's", f"chown root {directory}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise ShimError(f"{directory} lets others remove what is in it", f"chmod 1777 {directory}")
    if (kind := mounts.own(directory)) in mounts.IN_MEMORY or not kind:
        said = "is in memory, which counts against the job's limit" if kind else "is not on a disk of the node's own"
        raise ShimError(f"{directory} {said}", "the site names another in config.toml: local-dir")
    room = os.statvfs(directory)
    if (free := room.f_bavail * room.f_frsize) < SPARE * size:
        raise ShimError(f"{directory} has room for {units.size(free)}, and the checkpoint may take {units.size(size)}")


def _require_lasting(directory: str, job: str) -> None:
    """Raise ShimError if `directory` is the job's own, and goes with it.

    job_container/tmpfs and namespace/tmpfs mount <base>/<job>/... there.
    """
    mount = mounts.deepest(os.path.realpath(directory), mounts.read())
    if mount and f"/{job}/" in f"{mount.root}/":
        raise ShimError(f"{directory} is job {job}'s own, and goes with it", "the site names another: local-dir")


def sweep(directory: str) -> None:
    """Remove the caller's checkpoints in `directory` that nobody needs any more: the task has a newer one."""
    for name in os.listdir(directory):
        base = os.path.join(directory, name)
        if name.startswith(f"{holding.PREFIX}.") and (made := holding.made(base)) and not _is_needed(base, made):
            scratch.try_to_remove(base)


def _is_needed(base: str, made: float) -> bool:
    try:
        found, store = holding.read(base), holding.store_of(base)
    except (OSError, ShimError):
        return time.time() < made + ABANDONED  # it may be about to be written
    return os.path.isdir(store.path) and found.seq > max(store.numbers(), default=0) and not _goes_on(store, found)


def drain(base: str, compression: Compression | None) -> Checkpoint:
    """Copy the checkpoint in the directory `base` to the task's others, and remove that directory; return the copy.

    Raise ShimError or OSError if that fails: it stays where it is, and the task's others are as they were.
    """
    found, store = holding.read(base), holding.store_of(base)
    _require_wanted(store, found)
    if compression:
        compression.apply(found, os.path.join(base, scratch.name()))
    kept = holding.keep(found, store)
    try:
        _require_wanted(store, found)  # a later run looks for checkpoints after it has said that it is there
    except ShimError:
        store.remove(kept.seq)
        raise
    integrity.add_checksums(kept)
    scratch.try_to_remove(base)
    return kept


def _require_wanted(store: Store, found: Checkpoint) -> None:
    if _goes_on(store, found):
        raise ShimError(f"the task went on without {found.path}, which must not come between", f"rm -r {found.path}")


def _goes_on(store: Store, found: Checkpoint) -> bool:
    """Return whether a later run of the job works on the task: Slurm has taken this node for dead meanwhile."""
    try:
        with open(os.path.join(store.path, STARTED), encoding="ascii") as stream:
            return int(stream.read() or 0) > found.manifest.get("restarts", 0)
    except (FileNotFoundError, ValueError):
        return False
