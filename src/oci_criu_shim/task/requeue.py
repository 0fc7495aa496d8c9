"""What a job's epilog is to tell Slurm of a job that starts again (release_requeued() in spank/rundir.c)."""

from __future__ import annotations

import os

from oci_criu_shim import config, files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task

MARK = "requeued"  # in the job's run directory: its epilog makes the job eligible at once


def mark(root: str, task: Task, log: Log, exclude: str = "") -> None:
    """Leave the mark, before the job of `task` is requeued: the node `exclude` is left out next time, the
    site's feature wanted.

    Never fails: it starts again all the same. What another task has left stays: it may exclude a node.
    """
    job, settings, path = task.job, [f"JobId={task.name}"], os.path.join(root, MARK)
    if os.path.exists(path) and not exclude:
        return
    try:
        feature = config.load().feature
        if exclude or feature:
            found = controller.job(job)
            settings += [found.excluding(exclude)] if exclude else []
            settings += [found.wanting(feature)] if feature else []
    except ShimError as error:
        log.error(f"job {job} is requeued without a choice of nodes: {error.line()}")
    try:
        files.write_atomically(path, "".join(f"{line}\n" for line in settings).encode())
    except OSError as error:
        log.error(f"job {job} waits as long as any that is requeued: {path} can't be written: {error.strerror}")
