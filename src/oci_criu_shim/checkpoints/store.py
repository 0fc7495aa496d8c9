"""The checkpoints of one task, `<directory>/<job>/<step>.<task>/<seq>/`:

    <seq>/manifest.json   written last; without it there is no checkpoint
         /checkpoint/     CRIU's images
         /config.dump     who made it, in the form of podman's archives
         /spec.dump       the container's config.json

A checkpoint is staged next to the committed ones under a name that no reader looks at, flushed to
disk, and becomes one by a single rename.
"""

from __future__ import annotations

import os
import re

from oci_criu_shim import files, process, schema
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

IMAGES = "checkpoint"
MANIFEST = "manifest.json"
STARTED = "started"  # the task ran before, so a fresh start would run part of it twice
STAGE = re.compile(r"\.stage\.(?P<host>.+)\.(?P<pid>\d+)\.(?P<started>\d+)")


class Checkpoint:
    """A committed checkpoint, its manifest read and checked."""

    def __init__(self, path: str, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def seq(self) -> int:
        """Its number among the task's checkpoints, from 1."""
        return int(os.path.basename(self.path))

    @property
    def images(self) -> str:
        """The directory with CRIU's images."""
        return os.path.join(self.path, IMAGES)


class Stage:
    """A checkpoint being written: nothing of it counts before commit()."""

    def __init__(self, store: Store, path: str) -> None:
        self.store = store
        self.path = path
        self.images = os.path.join(path, IMAGES)
        os.mkdir(path, 0o700)
        os.mkdir(self.images, 0o700)
        from oci_criu_shim.checkpoints.writeback import Writeback

        self.writeback = Writeback(self.images)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.writeback.stop()
        files.remove_tree(self.path)  # not there any more once committed

    def write(self, name: str, document: Any) -> None:
        """Add `document` as the JSON file `name`."""
        files.write_json(os.path.join(self.path, name), document, durable=True)

    def sizes(self) -> dict[str, int]:
        """{path below the checkpoint's directory: bytes} of the images written so far."""
        names = sorted(os.listdir(self.images))
        return {f"{IMAGES}/{n}": os.stat(os.path.join(self.images, n)).st_size for n in names}

    def commit(self, manifest: dict[str, Any]) -> Checkpoint:
        """Flush everything, then make it the task's newest checkpoint. OSError: it is none."""
        self.writeback.finish()
        for name in manifest["files"]:
            _sync(os.path.join(self.path, name))
        files.sync_directory(self.images)
        self.write(MANIFEST, manifest)
        files.sync_directory(self.path)
        seq = max(self.store.numbers(), default=0) + 1
        path = os.path.join(self.store.path, str(seq))
        os.rename(self.path, path)
        files.sync_directory(self.store.path)
        return Checkpoint(path, manifest)


class Store:
    """The checkpoints of one task below `directory`; `key` is `<job>/<step>.<task>`."""

    def __init__(self, directory: str, key: str) -> None:
        self.directory = directory
        self.path = os.path.normpath(os.path.join(directory, key))

    def prepare(self) -> None:
        """Make the task's directory; ShimError where checkpoints could not be kept there."""
        check_directory(self.directory)
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise ShimError(
                f"cannot make {self.path}: {error.strerror}", "choose another --checkpoint-dir"
            ) from None
        self._sweep()

    def mark_started(self) -> None:
        """Remember, for a restart, that the task has run."""
        files.write_atomically(os.path.join(self.path, STARTED), b"", durable=True)

    def started(self) -> bool:
        """Whether the task has run before."""
        return os.path.exists(os.path.join(self.path, STARTED))

    def stage(self) -> Stage:
        """A place to write the next checkpoint to."""
        pid = os.getpid()
        name = f".stage.{os.uname().nodename}.{pid}.{process.start_time(pid)}"
        return Stage(self, os.path.join(self.path, name))

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
        """Remove all but the newest `count` checkpoints."""
        for seq in self.numbers()[:-count]:
            self._remove(os.path.join(self.path, str(seq)))

    def clear(self) -> None:
        """Remove the task's checkpoints, and the job's directory with its last task."""
        files.remove_tree(self.path)
        try:
            os.rmdir(os.path.dirname(self.path))
        except OSError:
            pass  # other tasks of the job have checkpoints there

    def _remove(self, path: str) -> None:
        """In two steps, so that no reader finds half a checkpoint."""
        gone = f"{self.path}/.gone.{os.path.basename(path)}.{os.getpid()}"
        os.rename(path, gone)
        files.remove_tree(gone)

    def _sweep(self) -> None:
        """Remove what writers on this node left that ended before they could."""
        for name in os.listdir(self.path):
            stage = STAGE.fullmatch(name)
            if not stage or stage["host"] != os.uname().nodename:
                continue
            if process.start_time(int(stage["pid"])) != int(stage["started"]):
                files.remove_tree(os.path.join(self.path, name))


def check_directory(directory: str) -> None:
    """Raise ShimError where `directory` is not one the caller may keep checkpoints in."""
    hint = "name a directory of yours on a shared file system with --checkpoint-dir"
    try:
        status = os.stat(directory)
    except OSError as error:
        raise ShimError(f"checkpoint directory {directory}: {error.strerror}", hint) from None
    if not os.path.isdir(directory):
        raise ShimError(f"checkpoint directory {directory} is not a directory", hint)
    if status.st_uid != os.geteuid():
        raise ShimError(f"checkpoint directory {directory} belongs to user {status.st_uid}", hint)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ShimError(f"checkpoint directory {directory} is not writable", hint)


def read(path: str) -> Checkpoint:
    """The checkpoint in `path`; ShimError, with the file's name, where it is not whole."""
    name = os.path.join(path, MANIFEST)
    try:
        manifest = files.read_json(name)
    except (OSError, ValueError) as error:
        raise ShimError(f"{name} cannot be read: {error}") from None
    faults = schema.faults(manifest, "manifest")
    if faults:
        raise ShimError(f"{name} is not a manifest this version reads: {'; '.join(faults)}")
    for file, size in manifest["files"].items():
        _check_size(os.path.join(path, file), size)
    return Checkpoint(path, manifest)


def _check_size(path: str, size: int) -> None:
    try:
        found = os.stat(path).st_size
    except OSError as error:
        raise ShimError(f"{path}: {error.strerror}") from None
    if found != size:
        raise ShimError(f"{path} has {found} bytes, not {size}")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
