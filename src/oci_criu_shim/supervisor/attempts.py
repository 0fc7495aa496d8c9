"""Have children see to a container's checkpoints: one child at a time, and another one if nothing came of the first."""

from __future__ import annotations

import time

from oci_criu_shim.errors import cause_of
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.task.policy import ENDING, LOST, NO_REASON, UNKNOWN
from oci_criu_shim.task.schedule import LOOK, MIGRATE, PREEMPT, RESTORED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.log import Log
    from oci_criu_shim.task.policy import Policy

# If the child that asked for a dump was killed: seconds until CRIU either has the container or won't have it any more,
# and seconds that CRIU may then take for a dump that nobody waits for.
PAUSE, PATIENCE = 1.0, 120.0
# Seconds until a failed attempt is made again, and how often Slurm is asked whether there is a reason for a checkpoint.
RETRY, TRIES = 3.0, 10


class Attempts:
    """The reasons for checkpoints that are still to be seen to, as `policy` has them, and the child that does."""

    def __init__(self, policy: Policy, log: Log) -> None:
        self.policy = policy
        self.log = log
        self.child: int | None = None  # sees to the first of the `reasons`; others have come since
        self.reasons: list[str] = []
        self.wake = 0.0  # when a checkpoint may be due, by the monotonic clock
        self.again = 0.0  # the `reasons` have to wait until then
        self.complaint = ""  # the last one, not to be repeated
        self.killed = False  # whether the last child was killed
        self.unanswered = 0  # how many children in a row have asked Slurm in vain
        self.withheld: list[int] = []  # signals that are kept from the container until it is known what they are for

    def take_signal(self, number: int) -> bool:
        """Note the reasons for checkpoints that a signal may mean; return whether there are any."""
        reasons = self.policy.at_signal(number)
        if PREEMPT in reasons and number not in (CHECKPOINT, self.policy.when.signal, *self.withheld):
            self.withheld.append(number)
        for reason in reasons:
            self._want(reason)
        return bool(reasons)

    def restored(self, reason: str) -> None:
        """Note that the container goes on from a checkpoint that was taken for `reason`: its hook is told first."""
        self.policy.restored = reason
        if self.policy.hook:
            self._want(RESTORED)

    @property
    def may_end_it(self) -> bool:
        """Whether a child sees to a checkpoint that may end the container."""
        return self.child is not None and self.reasons[0] in ENDING

    def _want(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)
            if self.child is not None:
                self.policy.hurry()

    def timeout(self) -> float | None:
        """Return for how many seconds there is nothing to do; None until the child ends."""
        if self.child is not None:
            return None
        return max((self.again if self.reasons else self.wake) - time.monotonic(), 0)

    def pursue(self) -> None:
        """Have a child see to the first reason that is wanted or due, unless one is at work.

        Try again later if there can't be a child now, at the user's or the job's limit of processes, say.
        """
        if self.child is not None:
            return
        if time.monotonic() >= self.wake:
            if reason := self.policy.due():
                self._want(reason)
            self.wake = time.monotonic() + self.policy.sleep()
        if not self.reasons or time.monotonic() < self.again:
            return
        self.policy.begin(self.reasons[0])
        if self.reasons[1:]:
            self.policy.hurry()
        try:
            self.child = process.fork(self._work)
            self.complaint = ""
        except OSError as error:
            name = self.policy.container.name
            self._complain(f"what is due for checkpoints of {name} ({self.reasons[0]}) has to wait: {cause_of(error)}")
            self.again = time.monotonic() + RETRY

    def _complain(self, text: str) -> None:
        """Log `text`, unless it was logged just before."""
        if text != self.complaint:
            self.log.error(text)
        self.complaint = text

    def _work(self) -> int:
        """In the child: see to the first reason; return one of policy's results."""
        from oci_criu_shim.task.take import Taker

        if self.killed:
            self._wait_for_criu()
        reason = self.reasons[0]
        if reason == LOOK:
            return Taker(self.policy).look()
        if reason == RESTORED:
            return Taker(self.policy).tell_of_restore()
        if reason == MIGRATE:
            from oci_criu_shim.task.migration import Migration

            status = Migration(self.policy).go()
        elif reason in ENDING:
            from oci_criu_shim.task.preempt import Preemption

            status = Preemption(self.policy).go(reason)
        else:
            status = Taker(self.policy).run_on(reason)
        if status == LOST:
            from oci_criu_shim.task.departure import Departure

            Departure(self.policy).lost()
        return status

    def _wait_for_criu(self) -> None:
        """Wait until CRIU has left the container after a dump that nobody waits for: two can't trace a process."""
        container, limit = self.policy.container, time.monotonic() + PATIENCE
        time.sleep(PAUSE)
        while (pid := container.alive("init")) and process.tracer(pid) and time.monotonic() < limit:
            time.sleep(PAUSE)

    def ended(self, code: int) -> list[int]:
        """Note how the child ended, by its exit code; return the signals that the container is to have now."""
        self.child = None
        self.killed = code < 0 and not self.killed
        if self.killed:
            return []  # nothing came of it, so another one has a try
        reason = self.reasons.pop(0)
        self.unanswered = self.unanswered + 1 if code == UNKNOWN else 0
        if code == UNKNOWN and self.unanswered % TRIES:
            self._want(reason)
            self.again = time.monotonic() + RETRY
            return []
        self.policy.done(reason, code)
        self.wake = 0.0
        if reason != PREEMPT:
            return []
        withheld, self.withheld = self.withheld, []
        return withheld if code in (NO_REASON, UNKNOWN) else []
