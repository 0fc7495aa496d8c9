"""What happens to a container when its job must go, preempted or at its time limit: checkpoint, then requeue."""

from __future__ import annotations

import fcntl
import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.slurm import controller, tasks
from oci_criu_shim.task import requeue, schedule, take
from oci_criu_shim.task.policy import DONE, FAILED, LOST, NO_REASON, TAKEN, TIME_IS_UP, UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.task.policy import Checkpointer
    from oci_criu_shim.task.schedule import When

LAST = ".requeueing"  # in the job's run directory: somebody was the last, and has the job requeued


class Stays(ShimError):
    """The job would not be started again."""


def go(of: Checkpointer, asked: str) -> int:
    """In a child of the supervisor, when the job may have to go: checkpoint the container, and see to it that the job
    is requeued; one of checkpointer's results."""
    connection = take.connect_early(of)
    try:
        why = _why(of, asked)
    except Stays as error:
        of.log.error(f"{of.task.describe()} is not checkpointed: {error.line()}")
        return FAILED
    except ShimError as error:
        of.log.error(f"cannot tell whether {of.task.describe()} must go: {error.line()}")
        return UNKNOWN
    if not why:
        return NO_REASON
    futile = why == schedule.TIMEOUT and asked == why and of.schedule.is_futile()
    before = of.store.numbers()
    try:
        of.log.event(f"checkpointed {of.task.describe()} to {take.dump(of, why, connection)}")
        status = TAKEN
        if futile:
            _note_futility(of, before)
    except ShimError as error:
        status = take.failed(of, error)[1]
    if status in (NO_REASON, LOST):
        return status  # steps.py, or lost(), sees to the rest
    mark(of, why, "taken" if status == TAKEN else "failed" if of.store.numbers() else "stuck")
    return status


def _note_futility(of: Checkpointer, before: list[int]) -> None:
    """The new checkpoint is hardly further than those `before`: a job must not be requeued for ever."""
    from oci_criu_shim.task.ladder import TRIES, Tries

    tries = Tries(os.path.join(of.store.path, TRIES), max(before, default=0))
    try:
        tries.note(max(of.store.numbers(), default=0))
    except OSError as error:
        of.log.debug(str(error))
    what = f"{of.task.describe()} hardly ran before its time limit was near"
    of.log.event(f"{what}: the limit is too short for its checkpoints, or the site's margin too long")


def _why(of: Checkpointer, asked: str) -> str:
    """schedule.PREEMPT or TIMEOUT; empty where the job need not go. ShimError: that can't be told, or passed on."""
    if asked == schedule.TIMEOUT:
        try:
            return _time_is_up(of)
        except OSError as error:  # the run directory's file system is full, say
            raise ShimError(str(error)) from None
    if os.path.exists(os.path.join(of.container.root, TIME_IS_UP)):
        return schedule.TIMEOUT
    return why_it_goes(of.when, of.task.job)


def why_it_goes(when: When, number: int) -> str:
    """The same, as Slurm has it: other nodes of the job may have got it requeued meanwhile.

    At a time limit that can't be told from `scontrol requeue` by hand.
    """
    if not (when.preempt or when.timeout):
        return ""
    found = controller.job(number, soon=True)
    if found.is_preempted:
        return schedule.PREEMPT if when.preempt else ""
    return schedule.TIMEOUT if when.timeout and found.is_requeued else ""


def _time_is_up(of: Checkpointer) -> str:
    """TIMEOUT, unless the time limit was changed. The job's other containers on this node, which are due a little
    later, are told to go, too."""
    found = controller.job(of.task.job)
    take.limits(of, found.end_time)
    of.schedule.looked(found.end_time)
    if of.schedule.due() != schedule.TIMEOUT:
        return ""
    if not found.is_requeueable:
        raise Stays("its time limit is near, but it would not be started again", "submit it with --requeue")
    _have_all_go(of.container)
    return schedule.TIMEOUT


def _have_all_go(container: Container) -> None:
    with open(os.path.join(container.root, TIME_IS_UP), "w", encoding="ascii"):
        pass
    for other in tasks.asked(container.root):
        if other.name != container.name:
            other.signal("supervisor", CHECKPOINT)


def lost(of: Checkpointer) -> None:
    """The container ended by a checkpoint that nothing came of. Where there is an older one, its job is requeued, to go
    on from there, with the job's other containers."""
    task = of.task
    try:
        again = bool(of.store.numbers()) and controller.job(task.job).is_requeueable
        with open(of.container.path(DONE), "w", encoding="ascii") as stream:
            stream.write("lost")
        if again:
            _have_all_go(of.container)
            mark(of, schedule.TIMEOUT, "taken")
    except ShimError as error:
        of.log.error(f"job {task.job} is not requeued: {error.line()}")


def mark(of: Checkpointer, why: str, word: str) -> None:
    """Mark the container as DONE, and have the job requeued once each that runs of its on this node has a checkpoint.

    A lock makes one of them the last; where a dump failed, the job keeps the time that it has.
    """
    container = of.container
    try:
        with open(os.path.join(container.root, ".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with open(container.path(DONE), "w", encoding="ascii") as stream:
                stream.write(word)
            marks = {word, *(_mark(other) for other in tasks.asked(container.root))}
        if marks == {"ended"}:
            _leave_word(of, why)
        elif all(marks):
            _requeue(of, why, marks)
    except (ShimError, OSError) as error:
        of.log.error(f"job {of.task.job} could not be requeued: {error}")


def _leave_word(of: Checkpointer, why: str) -> None:
    """All have ended by themselves, and the job is requeued nevertheless: at the end of its grace time, or another node
    has seen to it."""
    if why == schedule.PREEMPT or controller.job(of.task.job, soon=True).waits:
        requeue.mark(of.container.root, of.task, of.log)


def _requeue(of: Checkpointer, why: str, marks: set[str]) -> None:
    """Slurm requeues a preempted job whose batch script ends in its grace time: a container that is the batch step just
    ends, for others the script is ended. At a time limit it is asked to."""
    task, taken = of.task, marks.isdisjoint(("failed", "stuck"))
    if not task.is_batch and not controller.job(task.job, soon=True).is_batch:
        if taken:
            goes_on = f"a job with --restart-dir={task.job} goes on from there"
            of.log.event(f"job {task.job} has no batch script, so Slurm does not requeue it: {goes_on}")
        return
    if not taken:
        if why == schedule.PREEMPT:
            requeue.mark(of.container.root, task, of.log)
            controller.end_batch_step_after_grace(task.job)
        elif "stuck" not in marks:
            of.log.event(f"job {task.job} is requeued just before its time limit, to go on from an older checkpoint")
            requeue.mark(of.container.root, task, of.log)
            controller.requeue_before_limit(task.job)
        return
    try:
        os.close(os.open(os.path.join(of.container.root, LAST), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    of.log.event(f"requeueing job {task.job}", "requeued")
    requeue.mark(of.container.root, task, of.log)
    if why == schedule.TIMEOUT:
        controller.requeue(task.job)
    elif not task.is_batch:
        controller.end_batch_step(task.name)


def _mark(other: Container) -> str:
    try:
        with open(other.path(DONE), encoding="ascii") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
