"""Have a job requeued once each of its containers on this node is ready to go."""

from __future__ import annotations

import time

from oci_criu_shim.container import jobs
from oci_criu_shim.container.record import DONE
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.slurm import controller, grace
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import requeue, schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.slurm.job import Job
    from oci_criu_shim.task.policy import Policy


class Departure:
    """The end of a container, whose checkpoints `policy` decides on, because its job must go."""

    def __init__(self, policy: Policy) -> None:
        self.when = policy.when
        self.container = policy.container
        self.task = policy.task
        self.store = policy.store
        self.log = policy.log
        self.directory = RunDirectory(policy.container.root)
        self.end = 0.0  # when Slurm ends the job, in seconds since the epoch; 0 until it was asked

    def why(self) -> str:
        """Return schedule.PREEMPT or TIMEOUT, as Slurm has it; an empty string if the job need not go.

        Another node of the job may have had it requeued meanwhile. At a time limit, that can't be told from
        `scontrol requeue` by hand. Raise ShimError if Slurm doesn't say.
        """
        if not (self.when.preempt or self.when.timeout):
            return ""
        found = controller.job(self.task.job, soon=True)
        self.tell_of_limit(found)
        self.end = time.time() + found.seconds_left()
        if found.ended_as:  # what is asked may not live to see the container's end
            self.log.note("job-ended", state=found.ended_as, at=found.fields["end_time"])
        if found.is_preempted:
            return schedule.PREEMPT if self.when.preempt else ""
        return schedule.TIMEOUT if self.when.timeout and found.is_requeued else ""

    def tell_of_limit(self, found: Job) -> None:
        """Say that the job need not have ended by its time limit, if it does so."""
        if not found.has_timed_out or self.when.timeout or not (found.is_batch and found.is_requeueable):
            return
        seq = max(self.store.numbers(), default=0)
        goes_on = f"; a job with --restart-dir={self.task.job} goes on from checkpoint {seq}" if seq else ""
        would = "with `timeout` in --checkpoint it would have been checkpointed and requeued"
        self.log.event(f"job {self.task.job} ends by its time limit: {would}{goes_on}")

    def have_all_go(self) -> None:
        """Tell the job's other containers on this node to go, too; they would be due a little later."""
        self.directory.note_time_is_up()
        for other in jobs.asked(self.container.root):
            if other.name != self.container.name:
                other.signal("supervisor", CHECKPOINT)

    def mark(self, why: str, word: str) -> None:
        """Mark the container as DONE by `word`; have the job requeued if it is the last one on this node to be marked.

        A lock makes one of them the last. If a dump failed, the job keeps the time that it has.
        """
        try:
            with self.directory.lock():
                self._note(word)
                marks = {word, *(_mark(other) for other in jobs.asked(self.container.root))}
            if marks == {"ended"}:
                self._expect_requeue(why)
            elif all(marks):
                self._requeue(why, marks)
        except (ShimError, OSError) as error:
            self.log.error(f"job {self.task.job} could not be requeued: {line_of(error)}")

    def lost(self) -> None:
        """Note that the container ended while it was checkpointed, and that no checkpoint came of it.

        If there is an older one, have the job requeued, with its other containers, to go on from there.
        """
        try:
            again = bool(self.store.numbers()) and controller.job(self.task.job).is_requeueable
            self._note("lost")
            if again:
                self.have_all_go()
                self.mark(schedule.TIMEOUT, "taken")
        except ShimError as error:
            self.log.error(f"job {self.task.job} is not requeued: {error.line()}")

    def _note(self, word: str) -> None:
        with open(self.container.path(DONE), "w", encoding="ascii") as stream:
            stream.write(word)

    def _expect_requeue(self, why: str) -> None:
        """Tell the epilog if the job is requeued although all its containers here have ended by themselves.

        It is at the end of its grace time, or if another node has seen to it.
        """
        if why == schedule.PREEMPT or controller.job(self.task.job, soon=True).waits:
            requeue.mark(self.container.root, self.task, self.log)

    def _requeue(self, why: str, marks: set[str]) -> None:
        """Have the job requeued, unless it can't be.

        Slurm requeues a preempted job whose batch script ends in its grace time. A container that is the batch step
        just ends; for others the script is ended. Slurm is asked to requeue the job at a time limit, and at a
        preemption if it would not do so once more.
        """
        task, taken = self.task, marks.isdisjoint(("failed", "stuck"))
        found = controller.job(task.job, soon=True)
        fate = self._fate(found)
        if fate.obstacle:
            if taken:
                self._leave(found, fate.obstacle)
        elif not taken:
            self._requeue_late(why, "stuck" not in marks, found, fate)
        elif self.directory.is_first_to_requeue():
            self.log.event(f"requeueing job {task.job}{_at_its_end(fate)}", "requeued", **_counted(found, fate))
            requeue.mark(self.container.root, task, self.log)
            if why != schedule.PREEMPT or not task.is_batch or not fate.counts:
                controller.requeue(task.job, fate)

    def _fate(self, found: Job) -> grace.Fate:
        try:
            return grace.fate(found)
        except ShimError as error:
            self.log.debug(f"job {self.task.job} is taken for one that Slurm requeues: {error.line()}")
            return grace.Fate()

    def _leave(self, found: Job, obstacle: str) -> None:
        """Say that the job does not start again; its script, if it has one, must not go on either."""
        goes_on = f"a job with --restart-dir={self.task.job} goes on from here"
        said = f"job {self.task.job} is not requeued ({obstacle}): {goes_on}"
        self.log.event(said, "not-requeued", reason=f"{obstacle}: {goes_on}")
        if found.is_batch and not self.task.is_batch:
            controller.end_batch_step(found.name)

    def _requeue_late(self, why: str, has_older: bool, found: Job, fate: grace.Fate) -> None:
        """Have the job requeued just before its time is over, because a dump failed."""
        task = self.task
        if why == schedule.PREEMPT:
            self.log.note("requeued", **_counted(found, fate))
            requeue.mark(self.container.root, task, self.log)
            if fate.counts:
                controller.end_batch_step_after_grace(task.job)
            # Otherwise slurmctld requeues it at the end of its grace time, as `scontrol requeue` would.
        elif has_older:
            said = f"job {task.job} is requeued just before its time limit, to go on from an older checkpoint"
            self.log.event(said)
            requeue.mark(self.container.root, task, self.log)
            controller.requeue_before_limit(task.job)


def _at_its_end(fate: grace.Fate) -> str:
    """Return words if Slurm does not count that it requeues a job; an empty string if it does."""
    if fate.counts:
        return ""
    end = "hold it until an admin releases it" if fate.is_held else "start it once more, to give its exit status"
    return f", uncounted (MaxBatchRequeue={fate.limit}): when it has ended, Slurm may {end}"


def _counted(found: Job, fate: grace.Fate) -> dict[str, str]:
    """Return what the history is to tell requeue.comes_again() of a job that is requeued."""
    return {"counted": "yes" if fate.counts else "no"} if found.is_preempted else {}


def _mark(other: Container) -> str:
    """Return the word by which a container is marked as DONE; an empty string if it is not."""
    try:
        with open(other.path(DONE), encoding="ascii") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
