"""Remove checkpoints of tasks whose job has ended."""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.checkpoints import committed
from oci_criu_shim.checkpoints.quota import CUT
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.store import Store


def prune(task: Store, keep: int, older: int, spared: float, dry_run: bool = False) -> dict[str, int]:
    """Remove the task's checkpoints that are at least `older` seconds old, but for the newest `keep`. If none is left,
    what was cut off the task's files goes as well, unless it is younger than `spared` seconds.

    Return {path: bytes} of what is removed, or with `dry_run` would be.
    """
    numbers = task.numbers()
    doomed = [seq for seq in numbers[: max(len(numbers) - keep, 0)] if _age(task, seq) >= older]
    all_go = doomed == numbers
    cut_goes = all_go and not _has_cut(task, spared)
    sizes = {seq: files.tree_size(os.path.join(task.path, seq)) for seq in map(str, doomed)}
    if cut_goes and (size := files.tree_size(os.path.join(task.path, CUT))):
        sizes[CUT] = size
    if not dry_run:
        for seq in doomed:
            task.remove(seq)
        if all_go:
            (task.forget if cut_goes else task.clear)()
    return {os.path.join(task.path, name): size for name, size in sizes.items()}


def _has_cut(task: Store, seconds: float) -> bool:
    """Return whether something was cut off the task's files in the last `seconds`."""
    try:
        return time.time() - os.stat(os.path.join(task.path, CUT)).st_mtime < seconds
    except FileNotFoundError:
        return False


def _age(task: Store, seq: int) -> int:
    path = os.path.join(task.path, str(seq))
    try:
        return committed.age(committed.read(path).manifest["created"])
    except ShimError:
        return int(time.time() - os.lstat(path).st_mtime)
