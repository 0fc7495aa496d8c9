"""What happens to a container when its job is preempted: checkpoint, then requeue."""

from __future__ import annotations

import fcntl
import os

from oci_criu_shim import checkpoint, client, job, slurm
from oci_criu_shim.bundle import Bundle
from oci_criu_shim.container import all_of
from oci_criu_shim.errors import ShimError
from oci_criu_shim.supervise import FAILED, NOT_PREEMPTED, TAKEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.container import Container
    from oci_criu_shim.job import Task
    from oci_criu_shim.log import Log

DONE = "checkpointed"  # in a container's directory: its checkpoint is committed, or has failed
REQUEUED = "requeued"  # in the job's run directory: its epilog makes the job eligible at once


def on_signal(container: Container, task: Task, store: Store, keep: int, log: Log) -> int:
    """Runs in a child of the supervisor when Slurm signalled the job: one of supervise's results.

    The checkpoint goes to `store`, of which the newest `keep` stay.
    """
    connection = _connect_early(container, task)
    try:
        if not slurm.is_preempted(task.job):
            return NOT_PREEMPTED
    except ShimError as error:
        log.error(f"cannot tell whether {task.describe()} is preempted: {error.line()}")
        return NOT_PREEMPTED
    taken = _take(container, task, store, connection, log)
    if taken:
        store.keep(keep)
    _requeue_after_last(container, task, taken, log)
    return TAKEN if taken else FAILED


def _connect_early(container: Container, task: Task) -> socket.socket | None:
    """The helper's worker gets ready while Slurm is asked; None where it doesn't answer, and a dump will say why."""
    try:
        return client.connect(job.helper_socket(container.root, task))
    except ShimError:
        return None


def _take(container: Container, task: Task, store: Store, connection: socket.socket | None, log: Log) -> bool:
    helper = job.helper_socket(container.root, task)
    try:
        pid = container.alive("init")
        if pid is None:
            raise ShimError(f"container {container.name!r} is not running")
        taken = checkpoint.take(container, pid, store, helper, "preempt", connection=connection)
    except (ShimError, OSError) as error:
        reason = error.line() if isinstance(error, ShimError) else str(error)
        log.error(f"{task.describe()} could not be checkpointed and runs on: {reason}")
        return False
    log.event(f"checkpointed {task.describe()} to {taken.describe()}")
    return True


def _requeue_after_last(container: Container, task: Task, taken: bool, log: Log) -> None:
    """Have the job requeued once each of its containers on this node has a checkpoint.

    Slurm requeues a job whose batch script ends in its grace time: a container that is the batch
    step just ends, for others the script is ended. A lock makes one of them the last; where a dump
    failed, the job keeps its grace time.
    """
    with open(os.path.join(container.root, ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(container.path(DONE), "w", encoding="ascii") as mark:
            mark.write("taken" if taken else "failed")
        marks = [_mark(other) for other in all_of(container.root) if _counts(other)]
    if all(marks):
        try:
            _requeue(container.root, task, all(mark == "taken" for mark in marks), log)
        except ShimError as error:
            log.error(f"job {task.job} could not be requeued: {error.line()}")


def _requeue(root: str, task: Task, taken: bool, log: Log) -> None:
    if not taken:
        slurm.end_batch_step_after_grace(task.job)
        return
    log.event(f"requeueing job {task.job}")
    with open(os.path.join(root, REQUEUED), "w", encoding="ascii"):
        pass
    if not task.is_batch:
        slurm.end_batch_step(task.job)


def _counts(other: Container) -> bool:
    """Whether it is one of those whose checkpoints were asked for: any other begins again with the job."""
    if other.alive("supervisor") is None:
        return False
    record = other.load()
    task = job.of(Bundle(record["bundle"], record["config"]).environment())
    return task is not None and task.asked


def _mark(other: Container) -> str:
    try:
        with open(other.path(DONE), encoding="ascii") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
