"""Once a day, have a starting task prune the checkpoints of its user's ended jobs."""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.checkpoints import owner
from oci_criu_shim.host import process

STAMP = "last-prune"  # in the checkpoint directory
INTERVAL = 86400


def begin(directory: str, older: int) -> None:
    """Remove checkpoints in `directory` of jobs that Slurm no longer knows, unless they are younger than `older`
    seconds: in the background, at the lowest priority."""
    if _is_due(os.path.join(directory, STAMP)):
        process.fork_in_background(lambda: _run(directory, older))


def _is_due(stamp: str) -> bool:
    try:
        if time.time() - os.stat(stamp).st_mtime < INTERVAL:
            return False
    except FileNotFoundError:
        pass
    try:
        files.write_atomically(stamp, b"")
    except OSError:
        return False
    return True


def _run(directory: str, older: int) -> int:
    """Prune, and return the child's exit status."""
    from oci_criu_shim.errors import ShimError

    try:
        prune_ended(directory, older)
    except (ShimError, OSError):
        return 1  # tomorrow is another day
    return 0


def prune_ended(directory: str, older: int) -> None:
    """Remove histories and checkpoints of the caller's jobs that Slurm no longer knows, unless the task or the
    checkpoint is younger than `older` seconds."""
    from oci_criu_shim.checkpoints.prune import prune
    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.slurm import controller
    from oci_criu_shim.task import history, pointers

    known = controller.known_jobs()
    history.prune(directory, known, dry_run=False)
    for path in without(own_tasks(directory), known):
        if time.time() - os.stat(path).st_mtime >= older:
            prune(Store(path, "."), 0, older, spared=older)
    pointers.sweep()


def own_tasks(directory: str) -> list[str]:
    """Return the directories of the caller's tasks on this cluster: Slurm knows nothing of another cluster's jobs."""
    from oci_criu_shim.slurm import controller

    own = [path for path in owner.task_directories(directory) if os.lstat(path).st_uid == os.geteuid()]
    names = {path: owner.cluster_of(os.path.dirname(path)) for path in own}
    here = controller.configuration().get("ClusterName", "") if any(names.values()) else ""
    return [path for path in own if names[path] in ("", here)]


def without(tasks: list[str], jobs: set[int]) -> list[str]:
    """Return the directories of those `tasks` that belong to none of the `jobs`."""
    return [path for path in tasks if owner.job_of(path) not in jobs]
