"""Tell whether a job's checkpoints are on its node's own disk, and have a job go on where its checkpoints are.

The job's comment says where that is: any node can ask Slurm for it.
"""

from __future__ import annotations

import os
import re

from oci_criu_shim.checkpoints import owner
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import mounts
from oci_criu_shim.slurm import controller
from oci_criu_shim.task import requeue
from oci_criu_shim.task.estimate import RATES
from oci_criu_shim.task.ladder import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task

NOTED = re.compile(rf"{re.escape(MARK)}its checkpoints are on (\S+), ")


def own(path: str, directory: str) -> str:
    """Return the type of the file system of `path` if only this node sees it; else an empty string.

    Whatever its type, other nodes see that of the checkpoint `directory` if one of them has written there.
    """
    kind = mounts.own(path)
    return "" if kind and os.stat(path).st_dev == os.stat(directory).st_dev and _is_shared(directory) else kind


def _is_shared(directory: str) -> bool:
    try:
        nodes = os.listdir(os.path.join(directory, RATES))
    except OSError:
        return False
    return nodes not in ([], [os.uname().nodename])


def note(task: Task, directory: str) -> None:
    """Note in the job's comment that its checkpoints are in a directory of this node's own."""
    controller.remark(task.job, MARK, f"its checkpoints are on {task.node}, in {directory}")


def require_here(directory: str, task: Task) -> None:
    """Raise Misfit if the job's comment says that its checkpoints are in another node's `directory`."""
    try:
        noted = NOTED.search(controller.job(task.job).comment)
    except ShimError:
        return
    if noted and noted[1] != task.node:
        said = f"{directory} has nothing of job {task.job} on {task.node}: its checkpoints were made on {noted[1]}"
        raise Misfit(said, owner.HINT, noted[1])


def go(root: str, task: Task, log: Log, error: Misfit) -> bool:
    """Have the job requeued to where its checkpoints may be; return whether it was. `error` says why not here."""
    try:
        if error.home and requeue.can_wait_for(task, error.home):
            log.error(error.line())
            return requeue.move(root, task, log, f"to go on on {error.home}, once it is free", require=error.home)
        if not requeue.has_another_node(task):
            log.event(f"job {task.job} can go to no other node than {task.node}")
            return False
    except ShimError as failure:
        return requeue.not_moved(task, log, failure)
    log.error(error.line())
    return requeue.move(root, task, log, f"to go on on another node than {task.node}", exclude=task.node)
