"""Leave a note for a job's epilog: what to tell Slurm of a requeued job (release_requeued() in spank/rundir.c)."""

from __future__ import annotations

from oci_criu_shim import config
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import REQUEUED, RunDirectory
from oci_criu_shim.task import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.job import Job
    from oci_criu_shim.slurm.tasks import Task


EXPEDITED = "expedited"  # what the note has for a job that begins again at once without it
ELSEWHERE = "elsewhere"  # and for one that begins again on another node only


def mark(root: str, task: Task, log: Log, exclude: str = "", require: str = "") -> None:
    """Leave the note in the job's run directory `root`, before the job of `task` is requeued.

    Next time the job is not to run on the node `exclude`, or to wait for the node `require`, and is to have the site's
    feature. Never fail: the job starts again all the same. Leave another task's note as it is: it may exclude a node.
    """
    directory, settings = RunDirectory(root), [f"JobId={task.name}"]
    if directory.is_requeued and not (exclude or require):
        return
    require = require or directory.destination
    try:
        found, feature = controller.job(task.job, soon=True), config.load().feature
        settings += [EXPEDITED] if found.is_expedited else [ELSEWHERE] if require and require != task.node else []
        settings += [found.excluding(exclude)] if exclude else []
        wanted = _required(task, found)
        freed = [f"ReqNodeList={wanted}"] if wanted != found.fields["required_nodes"] else []
        settings += controller.waiting_for(found, require) if require else freed
        settings += [found.wanting(feature)] if feature else []
    except ShimError as error:
        log.error(f"job {task.job} is requeued without a choice of nodes: {error.line()}")
    try:
        directory.note_requeued(settings)
    except OSError as error:
        why = f"{directory.file(REQUEUED)} can't be written: {error.strerror}"
        log.error(f"job {task.job} waits as long as any requeued job: {why}")


def has_another_node(task: Task) -> bool:
    """Return whether the job of `task` can be requeued to go on elsewhere than on its node, wherever it came from."""
    found = controller.job(task.job)
    return controller.has_another_node(found, task.node, _required(task, found))


def can_wait_for(task: Task, node: str) -> bool:
    """Return whether the job of `task` can be requeued to wait for `node`, wherever it came from."""
    found = controller.job(task.job)
    return controller.can_wait_for(found, node, _required(task, found))


def required(directory: str, found: Job) -> str:
    """Return the nodes that the user of a job requires, and not the one that it has migrated to.

    Its history below the checkpoint `directory` tells of that.
    """
    nodes = found.fields["required_nodes"]
    events = [event for each in history.read(directory, found.fields["job_id"]).values() for event in each]
    moved = max((event for event in events if "to" in event), key=lambda event: event["time"], default=None)
    return moved["required"] if moved and moved["to"] == nodes else nodes


def _required(task: Task, found: Job) -> str:
    if not found.fields["required_nodes"]:
        return ""
    return required(task.directory or config.load().checkpoint_dir, found)


def move(root: str, task: Task, log: Log, why: str, exclude: str = "", require: str = "") -> bool:
    """Have the job requeued, `why` says, to start elsewhere than on the node `exclude`, or on the node `require`.

    Return whether it was.
    """
    try:
        mark(root, task, log, exclude, require)
        log.event(f"requeueing job {task.job}, {why}", "requeued")
        controller.requeue(task.job)
    except ShimError as error:
        return not_moved(task, log, error)
    return True


def not_moved(task: Task, log: Log, error: ShimError) -> bool:
    """Say that a job could not be requeued to another node; return False."""
    hint = error.hint or f"`scontrol requeue {task.name}` does that by hand, if the job does not go on here"
    log.error(ShimError(f"job {task.job} could not be requeued to another node: {error}", hint).line())
    return False


def comes_again(directory: str, task: Task) -> bool:
    """Return whether Slurm starts the job of `task` once more when this run of it has ended (slurm/grace.py).

    Its history below the checkpoint `directory` tells how it was last requeued in a grace time.
    """
    events = [event for found in history.read(directory, task.job).values() for event in found]
    counted = {event["restarts"]: event["counted"] for event in events if event.get("counted")}
    return bool(counted) and counted[max(counted)] == "no"
