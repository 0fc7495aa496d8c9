"""Checkpoints that this node has in memory, until the task that they are for goes on from them:

    /dev/shm/oci-criu-shim.<job>.<step>.<task>.<random>/<seq>/   as in store.py
                                                       /store    leads to the task's others

Nobody else's directories count. A task takes one over by renaming it, before anybody removes it.
"""

from __future__ import annotations

import os
import re

from oci_criu_shim import files, units
from oci_criu_shim.checkpoints import committed, scratch
from oci_criu_shim.checkpoints.committed import IMAGES
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint

MEMORY = "/dev/shm"
PREFIX = "oci-criu-shim"
STORE = "store"
TASK = re.compile(r"(\d+)/(batch|\d+)\.(\d+)", re.ASCII)


def require_room(size: int) -> None:
    """Raise ShimError if this node's memory has no room for so many bytes."""
    found = os.statvfs(MEMORY)
    if (free := found.f_bavail * found.f_frsize) < size:
        said = f"{MEMORY} has room for {units.size(free)}, and the checkpoint may take {units.size(size)}"
        raise ShimError(said, "name a node with more memory")


def make(directory: str, task: str, seq: int) -> str:
    """Make the directory of the checkpoint `seq` of `task`, `<job>/<step>.<task>`, whose others are below `directory`;
    return its path."""
    import tempfile

    base = tempfile.mkdtemp(prefix=_prefix(task), dir=MEMORY)
    path = os.path.join(base, str(seq))
    os.symlink(os.path.join(directory, task), os.path.join(base, STORE))
    os.makedirs(os.path.join(path, IMAGES), mode=0o700)
    return path


def remove(path: str) -> None:
    """Remove what make() has made; nothing if it was taken over."""
    scratch.try_to_remove(os.path.dirname(path))


def holds(path: str) -> bool:
    """Return whether a checkpoint was received here: each frame of it was then compared with its checksum."""
    return os.path.dirname(os.path.dirname(path)) == MEMORY


def is_waiting(path: str) -> bool:
    """Return whether nobody has taken it over, or removed it."""
    return os.path.isdir(path)


def take_over(task: str) -> Checkpoint | None:
    """Return the newest checkpoint of `task` that was received here, as this process's own; None if there is none."""
    paths = [os.path.join(MEMORY, name) for name in os.listdir(MEMORY) if name.startswith(_prefix(task))]
    for path in sorted(filter(_made, paths), key=_made, reverse=True):
        own = os.path.join(MEMORY, scratch.name())
        try:
            os.rename(path, own)
            return read(own)
        except (OSError, ShimError):
            scratch.try_to_remove(own)  # it is not complete, or was removed meanwhile
    return None


def read(base: str) -> Checkpoint:
    """Return the checkpoint in the directory `base`. Raise ShimError or OSError if there is no whole one."""
    return committed.read(os.path.join(base, next((name for name in os.listdir(base) if name.isdecimal()), "none")))


def store_of(base: str) -> Store:
    """Return where others of the checkpoint in the directory `base` are."""
    return Store(os.readlink(os.path.join(base, STORE)), ".")


def keep(checkpoint: Checkpoint, store: Store) -> Checkpoint:
    """Copy a received checkpoint to the store, where it is safe; return the copy.

    Raise OSError or ShimError if that fails, or the store has a newer one by then.
    """
    import shutil

    with store.stage() as stage:
        for name in [*checkpoint.manifest["files"], committed.MANIFEST]:
            target = os.path.join(stage.path, name)
            files.make_directories(os.path.dirname(target))
            shutil.copyfile(os.path.join(checkpoint.path, name), target)
        return stage.adopt(checkpoint.seq)


def _prefix(task: str) -> str:
    if not (found := TASK.fullmatch(task)):
        raise ShimError(f"{task!r} is no task")
    return f"{PREFIX}.{'.'.join(found.groups())}."


def _made(path: str) -> float:
    """Return when it was made, or 0 if it is gone, or somebody else's."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0
    return found.st_mtime if found.st_uid == os.geteuid() else 0
