"""Tell a job's epilog what Slurm is to know of a job that starts again (release_requeued() in spank/rundir.c)."""

from __future__ import annotations

from oci_criu_shim import config
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import REQUEUED, RunDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task


def mark(root: str, task: Task, log: Log, exclude: str = "") -> None:
    """Leave the mark in the job's run directory `root`, before the job of `task` is requeued: the node `exclude` is
    left out next time, the site's feature wanted.

    Never fail: the job starts again all the same. Leave another task's mark as it is: it may exclude a node.
    """
    directory, settings = RunDirectory(root), [f"JobId={task.name}"]
    if directory.is_requeued and not exclude:
        return
    try:
        feature = config.load().feature
        if exclude or feature:
            found = controller.job(task.job)
            settings += [found.excluding(exclude)] if exclude else []
            settings += [found.wanting(feature)] if feature else []
    except ShimError as error:
        log.error(f"job {task.job} is requeued without a choice of nodes: {error.line()}")
    try:
        directory.note_requeued(settings)
    except OSError as error:
        why = f"{directory.file(REQUEUED)} can't be written: {error.strerror}"
        log.error(f"job {task.job} waits as long as any that is requeued: {why}")
