"""Checkpoints that this node has in memory, in directories of holding.py, until the task that they are for goes on from
them. A task takes one over by renaming it, before anybody removes it.
"""

from __future__ import annotations

import os

from oci_criu_shim import units
from oci_criu_shim.checkpoints import scratch
from oci_criu_shim.checkpoints.committed import IMAGES
from oci_criu_shim.errors import ShimError
from oci_criu_shim.transfer import holding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint

MEMORY = "/dev/shm"


def require_room(size: int) -> None:
    """Raise ShimError if this node's memory has no room for so many bytes."""
    if (free := room()) < size:
        said = f"{MEMORY} has room for {units.size(free)}, and the checkpoint may take {units.size(size)}"
        raise ShimError(said, "name a node with more memory")


def room() -> int:
    """Return for how many bytes this node's memory has room."""
    found = os.statvfs(MEMORY)
    return found.f_bavail * found.f_frsize


def make(directory: str, task: str, seq: int) -> str:
    """Make the directory of the checkpoint `seq` of `task`, `<job>/<step>.<task>`, whose others are below `directory`;
    return its path."""
    path = os.path.join(holding.make(MEMORY, directory, task), str(seq))
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
    paths = [os.path.join(MEMORY, name) for name in os.listdir(MEMORY) if name.startswith(holding.prefix(task))]
    for path in sorted(filter(holding.made, paths), key=holding.made, reverse=True):
        own = os.path.join(MEMORY, scratch.name())
        try:
            os.rename(path, own)
            return holding.read(own)
        except (OSError, ShimError):
            scratch.try_to_remove(own)  # it is not complete, or was removed meanwhile
    return None
