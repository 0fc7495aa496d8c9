"""Decide, in a task's supervisor, when a checkpoint is due, and why. A child takes it (take.py, preempt.py)."""

from __future__ import annotations

import os

from oci_criu_shim import files, units, when
from oci_criu_shim.checkpoints import store
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.container.record import LIMITS, MIGRATION, REQUEST, SENT
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host.quick import signal
from oci_criu_shim.host.signals import CHECKPOINT
from oci_criu_shim.task import estimate, schedule
from oci_criu_shim.task.compress import Compressor
from oci_criu_shim.task.estimate import Estimate
from oci_criu_shim.task.schedule import Schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.config import Settings
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task

# Exit statuses of a child: it took a checkpoint, it had no reason to, it could not, the container ended by a checkpoint
# that failed, or Slurm did not say whether there is a reason.
TAKEN, NO_REASON, FAILED, LOST, UNKNOWN = 0, 3, 4, 5, 6
ENDING = (schedule.PREEMPT, schedule.TIMEOUT, schedule.MIGRATE)
ASKED = {schedule.REQUEST: REQUEST, schedule.MIGRATE: MIGRATION}  # the files by which users ask for it


class Policy:
    """Decides about the checkpoints of a task.

    The supervisor asks at_signal() and due() what there is to do, and says what is done(). Raise ShimError if the times
    that the job asked for can't be understood. `hook` is the job's, an empty one if it has none.
    """

    def __init__(
        self, container: Container, task: Task, store: Store, settings: Settings, log: Log, hook: str = ""
    ) -> None:
        self.container = container
        self.task = task
        self.store = store
        self.keep = task.keep or settings.keep
        self.pace_dir = settings.pace_dir
        self.local_dir = settings.local_dir
        self.urgent = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.closes = settings.closes(task.tcp)
        self.fresh_start = settings.fresh_start
        self.log = log
        text = settings.when(task.partition) if task.when == "default" else task.when
        self.when = when.parse(text, task.interval)
        self.estimate = Estimate(container, store.directory, settings.dump_rate)
        mtbf = settings.mtbf / task.nodes  # of the job, which ends with any of its nodes
        self.hook = hook
        self.hook_limit = settings.hook_limit if hook else 0
        margin = settings.margin + self.hook_limit
        self.schedule = Schedule(self.when, self.estimate.seconds, task.end, margin, mtbf)
        self.compressor = Compressor(container, store, log, settings.compress)
        self.grace = 0
        self.is_hurried = False  # whether something else has been wanted since the child began
        self.looks = 0  # how often Slurm was asked for the job's limits
        self.said: set[str] = set()
        self.silent = ""  # the last child's reason, until it has said what came of it
        self.restored = ""  # the reason of the checkpoint from which the container goes on
        self.interrupted = False  # whether compressing was stopped for it

    def started(self) -> None:
        """Note that the container runs."""
        self.schedule.started()

    def at_signal(self, number: int) -> list[str]:
        """Return the reasons for a checkpoint that a signal may mean, the most urgent first; none if it is not for us.

        A preemption may come while somebody's request is there, so Slurm is asked about it then, too. It may be told to
        the batch step alone, and by the job's own signal: with PreemptParameters=send_user_signal and sbatch
        --signal=B:USR1@60, slurmctld sends nothing else.
        """
        if number == self.when.signal:
            return [schedule.PREEMPT, schedule.SIGNAL] if self.when.preempt else [schedule.SIGNAL]
        if number == signal.SIGTERM:
            return [schedule.PREEMPT] if self.when.preempt or self.when.timeout else []
        if number in when.SIGNALS.values():
            return [schedule.PREEMPT] if self.when.preempt and self.task.is_batch else []
        if number != CHECKPOINT:
            return []
        return [schedule.PREEMPT, *(why for why, name in ASKED.items() if os.path.exists(self.container.path(name)))]

    def due(self) -> str:
        """Return why a checkpoint is due now, or schedule.LOOK; an empty string if nothing is."""
        self._warn()
        return self.schedule.due()

    def sleep(self) -> float:
        """Return for how many seconds there is nothing to ask due() for."""
        return self.schedule.sleep()

    def ended_by(self) -> Checkpoint | None:
        """Return the checkpoint that ended this run of the container; None if none did."""
        try:
            newest = self._sent() or store.newest(self.store.path)
        except (ShimError, OSError):
            return None
        if newest is None or newest.manifest.get("left_running", True):
            return None
        return newest if newest.manifest.get("restarts") == self.task.restarts else None

    def note_elsewhere(self, path: str, checkpoint: Checkpoint) -> None:
        """Note a checkpoint that is not in the store, but will be at `path`, or is on another node."""
        files.write_json(self.container.path(SENT), {"path": path, "manifest": checkpoint.manifest})

    def _sent(self) -> Checkpoint | None:
        try:
            found = files.read_json(self.container.path(SENT))
        except FileNotFoundError:
            return None
        return Checkpoint(found["path"], found["manifest"])

    def hurry(self) -> None:
        """Note that something else is wanted, too, and tell the child: a checkpoint that can wait lets it go first."""
        if not self.is_hurried:
            os.eventfd_write(self.urgent, 1)
        self.is_hurried = True

    def begin(self, reason: str) -> None:
        """Note that a child is about to see to `reason`."""
        if self.is_hurried:
            os.eventfd_read(self.urgent)
        self.is_hurried = False
        self.silent = reason
        self.looks += reason == schedule.LOOK
        if reason not in schedule.ASIDE:
            self.schedule.begun()
            self.interrupted = self.compressor.stop()

    def done(self, reason: str, status: int) -> None:
        """Note that the child that was to see to `reason` has ended: with one of the results above, or by a failure."""
        if status in (TAKEN, NO_REASON, FAILED, LOST):
            self.silent = ""
        if (status == TAKEN and reason not in ENDING) or (status == NO_REASON and self.interrupted):
            self.compressor.start()
            self.interrupted = False
        if reason in ASKED:
            files.remove_if_there(self.container.path(ASKED[reason]))
        if reason == schedule.TIMEOUT and status not in (NO_REASON, UNKNOWN):
            self.schedule.tried = self.schedule.end
        if reason in (schedule.LOOK, schedule.TIMEOUT):
            self._read_limits()
        elif status not in (NO_REASON, UNKNOWN):
            self.schedule.taken()
            self._tell_of_slowness()
        elif reason == schedule.INTERVAL and not self.is_hurried:
            self.schedule.taken()  # its steps are checkpointed, not the script

    def note_limits(self, end: int, grace: int) -> None:
        """In a child: tell the supervisor the time limit (since the epoch) and the grace time; 0 is none."""
        files.write_atomically(self.container.path(LIMITS), f"{end} {grace}".encode())

    def _read_limits(self) -> None:
        try:
            with open(self.container.path(LIMITS), encoding="utf-8") as stream:
                end, grace = map(int, stream.read().split())
        except FileNotFoundError:
            self.schedule.looked()  # Slurm has not answered
            return
        self.grace = grace
        self.schedule.looked(end)

    def _tell_of_slowness(self) -> None:
        """Say, once, that checkpoints take longer than the interval between them."""
        took, interval = self.schedule.took, self.when.interval
        if interval is not None and 0 < interval < took and "slow" not in self.said:
            self.said.add("slow")
            what = f"a checkpoint of {self.task.describe()} took {took:.1f} s, longer than its interval of {interval} s"
            self.log.event(f"{what}: each is followed by as long a time without one")

    def _warn(self) -> None:
        """Say, once each, that a checkpoint may take longer than the grace time, and that it will."""
        if not self.grace:
            return
        what = f"{self.task.describe()}, of up to {units.size(self.task.memory)},"
        self._say_once(what, self.estimate.seconds_for(self.task.memory))
        self._say_once(f"all that job {self.task.job} has in memory on this node now", self.estimate.seconds())

    def _say_once(self, what: str, seconds: float) -> None:
        seconds += self.hook_limit
        if seconds <= self.grace or what in self.said:
            return
        self.said.add(what)
        intervals = self.when.interval is not None
        self.log.event(estimate.too_long(what, seconds, self.task.partition, self.grace, intervals))
