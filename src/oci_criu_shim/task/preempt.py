"""Checkpoint a container whose job must go, preempted or at its time limit, and have the job requeued."""

from __future__ import annotations

import os
import signal
import time
from contextlib import nullcontext

from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.slurm import controller
from oci_criu_shim.task import deadline, own_steps, schedule
from oci_criu_shim.task.departure import Departure
from oci_criu_shim.task.policy import FAILED, LOST, NO_REASON, TAKEN, UNKNOWN
from oci_criu_shim.task.take import Taker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.task.policy import Policy
    from oci_criu_shim.transfer.local import Local

LAST_SECONDS = 2.0  # of a job's time, in which no checkpoint should have to end


class Stays(ShimError):
    """The job must stay: it would not be started again."""


class Preemption:
    """Sees to a container whose job may have to go, in a child of the supervisor."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.task = policy.task
        self.store = policy.store
        self.log = policy.log
        self.taker = Taker(policy)
        self.departure = Departure(policy)

    def go(self, asked: str) -> int:
        """Checkpoint the container if its job must go, and see to it that the job is requeued.

        `asked` is the reason for which it may have to go. Return one of policy's results.
        """
        connection = self.taker.connect_early()
        try:
            why = self._why(asked)
        except Stays as error:
            self.log.error(f"{self.task.describe()} is not checkpointed: {error.line()}")
            return FAILED
        except ShimError as error:
            self.log.error(f"cannot tell whether {self.task.describe()} must go: {error.line()}")
            return UNKNOWN
        if not why:
            return NO_REASON
        if own_steps.are_there(self.policy.container, self.task, self.store):
            return self._leave_to_steps(why)
        futile = why == schedule.TIMEOUT and asked == why and self.policy.schedule.is_futile()
        before, local = self.store.numbers(), self._local()
        try:
            self.taker.end = self.departure.end
            with nullcontext(True) if local else self.taker.turn(why) as is_due:
                if not is_due:
                    return self._leave_to_steps(why)
                with deadline.watched(self.policy, why, self.departure.end):
                    taken = self.taker.dump(why, connection, local)
            self.log.event(f"checkpointed {self.task.describe()} to {taken}")
            if local:
                self._tell_of_risk()
            status = TAKEN
            if futile:
                self._note_futility(before)
        except ShimError as error:
            status = self.taker.failed(error)[1]
            self._foretell(status)
        if status not in (NO_REASON, LOST):  # Step.ended() or Departure.lost() sees to the rest
            self.departure.mark(why, "taken" if status == TAKEN else "failed" if self.store.numbers() else "stuck")
        return status

    def _local(self) -> Local | None:
        """Return this node's own disk if the checkpoint would not be done in time elsewhere."""
        place, left = self.policy.local_dir, self.departure.end - time.time()
        if not place or left <= 0 or self.policy.estimate.seconds() + LAST_SECONDS <= left:
            return None
        from oci_criu_shim.transfer.local import Local

        directory = self.departure.directory
        try:
            return Local(
                place, self.store, self.policy.estimate.used(), directory.note_local, self.policy.note_elsewhere
            )
        except (ShimError, OSError) as error:
            self.log.event(f"{self.task.describe()} is not checkpointed to this node's own disk: {line_of(error)}")
            return None

    def _tell_of_risk(self) -> None:
        """Say what the job loses if the node fails before the checkpoint is copied."""
        node, older = os.uname().nodename, max(self.store.numbers(), default=0)
        follows = f"goes on from checkpoint {older}" if older else "has no checkpoint to go on from"
        what = f"{self.task.describe()}'s checkpoint is on {node} alone until the job's epilog has copied it"
        self.log.event(f"{what} to {self.store.path}; if {node} fails before, the job {follows}")

    def _leave_to_steps(self, why: str) -> int:
        """Have the job requeued when its steps are ready: its batch script begins again, and finds them."""
        self.log.event(f"{self.task.describe()} is not checkpointed: {own_steps.SAID}")
        self.departure.mark(why, "taken")
        if self.departure.directory.is_requeued:
            self.policy.container.signal("init", signal.SIGKILL)  # nobody else ends the script
        return TAKEN

    def _foretell(self, status: int) -> None:
        """Say what becomes of a job that is requeued without any checkpoint."""
        if status != FAILED or self.store.numbers():
            return
        what = f"{self.task.describe()} has no checkpoint: if its job is requeued, it"
        if self.policy.fresh_start:
            self.log.event(f"{what} starts from its beginning (fresh-start)")
        else:
            self.log.event(f"{what} fails, and does not start from its beginning: the site has not set fresh-start")

    def _note_futility(self, before: list[int]) -> None:
        """Count the tries for the new checkpoint, too, if it is hardly further than those `before`.

        Otherwise a job might be requeued for ever.
        """
        from oci_criu_shim.task.ladder import TRIES, Tries

        tries = Tries(os.path.join(self.store.path, TRIES), max(before, default=0))
        try:
            tries.note(max(self.store.numbers(), default=0))
        except OSError as error:
            self.log.debug(str(error))
        what = f"{self.task.describe()} hardly ran before its time limit was near"
        self.log.event(f"{what}: the limit is too short for its checkpoints, or the site's margin too long")

    def _why(self, asked: str) -> str:
        """Return schedule.PREEMPT or TIMEOUT; an empty string if the job need not go.

        Raise ShimError if that can't be told, or passed on.
        """
        if asked == schedule.TIMEOUT:
            try:
                return self._time_is_up()
            except OSError as error:  # the run directory's file system is full, say
                raise ShimError(line_of(error)) from None
        return schedule.TIMEOUT if self.departure.directory.time_is_up else self.departure.why()

    def _time_is_up(self) -> str:
        """Return TIMEOUT, unless the time limit was changed; then have all of the job's containers go."""
        found = controller.job(self.task.job)
        self.taker.note_limits(found.end_time)
        self.policy.schedule.looked(found.end_time)
        self.departure.end = found.end_time
        if self.policy.schedule.due() != schedule.TIMEOUT:
            return ""
        if not found.is_requeueable:
            raise Stays("its time limit is near, but it would not be started again", "submit it with --requeue")
        self.departure.have_all_go()
        return schedule.TIMEOUT
