"""Hold the checkpoints in a user's directory to a number of bytes."""

from __future__ import annotations

import os

from oci_criu_shim import files, units
from oci_criu_shim.checkpoints.committed import MANIFEST
from oci_criu_shim.checkpoints.owner import DEPTH
from oci_criu_shim.errors import ShimError

CUT = "cut"  # in a task's directory: what was cut off the files it writes


class Quota:
    """`limit` bytes for everything below `directory`; 0 is no limit. The task's own checkpoints, below `own`, can make
    room; what was cut off its files can't.

    The bytes of others are counted when this is made, before anything is frozen: tasks that are checkpointed at the
    same time don't see each other's.
    """

    def __init__(self, limit: int, directory: str, own: str) -> None:
        self.limit = limit
        self.directory = directory
        self.own = own
        self.others = used(directory) - self._own() if limit else 0

    def _own(self) -> int:
        return used(self.own) - files.tree_size(os.path.join(self.own, CUT))

    def require(self, size: int) -> None:
        """Raise ShimError if a checkpoint of `size` bytes would be too large even as the task's only one."""
        if self.limit and self.others + size > self.limit:
            raise ShimError(
                f"a checkpoint of {units.size(size)} beside {units.size(self.others)} of others in {self.directory} "
                f"is more than the quota of {units.size(self.limit)}",
                self._way_out() if size <= self.limit else "have the site allow more: quota in config.toml",
            )

    def _way_out(self) -> str:
        """Return what could be removed."""
        ways = [f"`oci-criu-shim ckpt prune --older-than=0s {self.directory}` removes those of ended jobs"]
        jobs = set(os.listdir(self.directory)) - {os.path.basename(os.path.dirname(self.own))}
        size, job = max(((used(os.path.join(self.directory, job), DEPTH - 1), job) for job in jobs), default=(0, ""))
        if size:
            ways.append(f"job {job} has the most, {units.size(size)}")
        if os.path.isdir(cut := os.path.join(self.own, CUT)):
            ways.append(f"{cut} may go, too")
        return "; ".join(ways)

    def is_kept(self) -> bool:
        """Return whether everything below the directory is within the limit."""
        return not self.limit or self.others + self._own() <= self.limit


def used(directory: str, depth: int = DEPTH) -> int:
    """Return the bytes of the checkpoints at most `depth` levels below `directory`, and of what was cut off. Files that
    are hard links of each other count once."""
    return sum(_sizes(directory, depth).values())


def _sizes(directory: str, depth: int) -> dict[object, int]:
    """Return {device and inode: bytes} of their files."""
    if not depth:
        return {}
    try:
        with os.scandir(directory) as entries:
            inner = [e.path for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except OSError:
        return {}  # it was removed meanwhile, or is not ours
    found: dict[object, int] = {}
    for path in inner:
        found |= _files(path) if _is_one(path) else _sizes(path, depth - 1)
    return found


def _is_one(path: str) -> bool:
    return os.path.basename(path) == CUT or os.path.exists(os.path.join(path, MANIFEST))


def _files(path: str) -> dict[object, int]:
    try:
        names = files.read_json(os.path.join(path, MANIFEST))["files"]
        found = [os.lstat(os.path.join(path, name)) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return {path: files.tree_size(path)}
    return {(status.st_dev, status.st_ino): status.st_size for status in found}
