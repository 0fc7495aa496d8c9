"""Hold one checkpoint of a task apart from its others, in a directory of a node's own:

    <place>/oci-criu-shim.<job>.<step>.<task>.<random>/<seq>/   as in store.py
                                                     /store    leads to the task's others

Nobody else's directories count.
"""

from __future__ import annotations

import os
import re

from oci_criu_shim import files
from oci_criu_shim.checkpoints import committed, integrity
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint

PREFIX = "oci-criu-shim"
STORE = "store"
TASK = re.compile(r"(\d+)/(batch|\d+)\.(\d+)", re.ASCII)


def make(place: str, directory: str, task: str) -> str:
    """Make a directory below `place` for a checkpoint of `task`, `<job>/<step>.<task>`, whose others are below
    `directory`; return its path."""
    import tempfile

    base = tempfile.mkdtemp(prefix=prefix(task), dir=place)
    os.symlink(os.path.join(directory, task), os.path.join(base, STORE))
    return base


def prefix(task: str) -> str:
    """Return how the names of such directories for `task` begin."""
    if not (found := TASK.fullmatch(task)):
        raise ShimError(f"{task!r} is no task")
    return f"{PREFIX}.{'.'.join(found.groups())}."


def made(path: str) -> float:
    """Return when it was made, or 0 if it is gone, or somebody else's."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0
    return found.st_mtime if found.st_uid == os.geteuid() else 0


def read(base: str) -> Checkpoint:
    """Return the checkpoint in the directory `base`. Raise ShimError or OSError if there is no whole one."""
    return committed.read(os.path.join(base, next((name for name in os.listdir(base) if name.isdecimal()), "none")))


def has_any(base: str) -> bool:
    """Return whether a checkpoint was committed in the directory `base`."""
    return any(map(str.isdecimal, os.listdir(base)))


def store_of(base: str) -> Store:
    """Return where others of the checkpoint in the directory `base` are. Raise ShimError if that is no such one."""
    try:
        return Store(os.readlink(os.path.join(base, STORE)), ".")
    except OSError:
        raise ShimError(f"{base} was not made to hold a checkpoint") from None


def keep(checkpoint: Checkpoint, store: Store) -> Checkpoint:
    """Copy a checkpoint to the store, where it is safe; return the copy, which was compared with the checksums known.

    Raise OSError or ShimError if that fails, or the store has a newer one by then.
    """
    import shutil

    with store.stage() as stage:
        for name in [*checkpoint.manifest["files"], committed.MANIFEST]:
            target = os.path.join(stage.path, name)
            files.make_directories(os.path.dirname(target))
            shutil.copyfile(os.path.join(checkpoint.path, name), target)
        if known := integrity.checksums(checkpoint):
            integrity.write_checksums(stage.path, known)
        return stage.adopt(checkpoint.seq)
