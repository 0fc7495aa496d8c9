"""Keep which steps of a batch script have finished: a requeued script begins at its top, and runs no step twice.

    <checkpoint-dir>/<job>/<step>.<task>/finished.json   {version, status, command, bundle}
                                        /started         the number of the run (restart count) that works on it

A step that ended by itself leaves finished.json, and its checkpoints are removed. So does a container that is the batch
step and ends in its job's grace time (Slurm requeues the job all the same), but if it has failed, they stay. A step
that was ended because its job ends has not finished, whatever its exit status. slurmctld changes the job's state before
it has anything killed; it is asked if the step may have ended by a signal. A step is recognised by its number and task,
and by its command and bundle, because steps in the background may change their numbers from one run of the script to
the next.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints import owner
from oci_criu_shim.checkpoints.store import STARTED, Store
from oci_criu_shim.container.record import DONE, INIT_PID
from oci_criu_shim.errors import ShimError, cause_of
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import script_end
from oci_criu_shim.task.policy import ENDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.host.signals import Signals
    from oci_criu_shim.task.departure import Departure
    from oci_criu_shim.task.policy import Policy

    class Finished(TypedDict):
        """The contents of finished.json."""

        version: int
        status: int
        command: str  # its words and directory, as JSON; the digest of that in version 1
        bundle: str  # its path


FINISHED = "finished.json"
VERSION = 2


class Step:
    """A task that asked for checkpoints: whether it is to run, and what follows from its end."""

    def __init__(self, plan: Plan, policy: Policy, signals: Signals) -> None:
        self.plan = plan
        self.policy = policy
        self.signals = signals
        self.task = policy.task
        self.directory = RunDirectory(policy.container.root)
        self.store = policy.store
        self.log = policy.log
        self.path = os.path.join(policy.store.path, FINISHED)

    def done(self) -> int | None:
        """Return the exit status of a step that had finished in an earlier run of its job; None if it is to run.

        Raise ShimError if finished.json can't be read.
        """
        job = os.path.dirname(self.store.path)
        if self.task.restarts or not self.task.is_batch:
            self.directory.keep(job)
        record = None if self._runs_again() else self._recorded(self.path)
        if record and (other := self._other(record)):
            record = self._moved()
            if record is None:
                self.log.event(f"{self.task.describe()} runs: what had finished under this number has another {other}")
                self._forget()
        if record:
            status = int(record["status"])
            self.log.event(
                f"{self.task.describe()} had finished with status {status}; not run again (--checkpoint-rerun runs it)"
            )
            return status
        self._mark_begun()
        return None

    def _runs_again(self) -> bool:
        """Whether it runs even if it had finished: the user wants that, or it was an earlier job of the same number."""
        if self.task.restarts and not self.task.rerun:
            return False
        if os.path.exists(self.path):
            self._forget()
        return True

    def _forget(self) -> None:
        self.store.clear()
        self.store.prepare(self.task.cluster)

    def _recorded(self, path: str) -> Finished | None:
        try:
            record: Finished = files.read_json(path)
            if record["version"] not in (1, VERSION) or not 0 <= record["status"] <= 255:
                raise ValueError("it is not one this version reads")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShimError(
                f"{path}, which says how {self.task.describe()} ended, cannot be read: {cause_of(error)}",
                "with --checkpoint-rerun it is run again",
            ) from None
        return record

    def _other(self, record: Finished) -> str:
        """Return what differs if `record` is that of another step; an empty string if it is this one's."""
        command, bundle = identity(self.plan.bundle)
        if record["version"] == 1:
            command = files.digest(command)
        return "command" if record.get("command") != command else "bundle" if record.get("bundle") != bundle else ""

    def _moved(self) -> Finished | None:
        """Return the record that the step left under another number; None if there is none."""
        job, own = os.path.split(self.store.path)
        task = own.rpartition(".")[2]
        paths = [os.path.join(job, name, FINISHED) for name in sorted(os.listdir(job)) if name.endswith(f".{task}")]
        found = filter(None, map(self._recorded, paths))
        return next((record for record in found if not self._other(record)), None)

    def _mark_begun(self) -> None:
        """Tell an earlier run of the job, on a node that Slurm has given up, that this one works on the step now."""
        if self.task.restarts and self.store.started():
            number = str(self.task.restarts).encode()
            try:
                files.write_atomically(os.path.join(self.store.path, STARTED), number)
            except OSError as error:
                self.log.debug(str(error))  # whatever else must write there will say so

    def is_too_late(self) -> bool:
        """Return whether the job is about to be requeued: a step that started now would end without a checkpoint."""
        why = self._why_it_must_go()
        if why:
            self.log.event(f"{self.task.describe()} is not started: its job is about to be requeued")
            self._departure().mark(why, "taken")
        return bool(why)

    def _departure(self) -> Departure:
        from oci_criu_shim.task.departure import Departure

        return Departure(self.policy)

    def _why_it_must_go(self) -> str:
        from oci_criu_shim.task import schedule

        if self.directory.time_is_up:
            return schedule.TIMEOUT
        if not self.directory.was_signalled:
            return ""
        try:
            return self._departure().why()
        except ShimError:
            return ""

    def ended(self, status: int, told: bool) -> None:
        """See to what the step's end with `status` means for its job.

        `told` says whether it was sent signals that may have ended it.
        """
        mark = self._mark_late() or self._mark()
        if mark == "taken":
            script_end.outlive(self.task, self.signals)
        if mark in ("taken", "lost"):
            return
        began = os.path.exists(self.plan.pid_file or self.plan.container.path(INIT_PID))
        if not began and not self.store.numbers():
            self.store.clear()  # its program never ran
        elif began and self._ended_by_itself(status, told) and self._is_newest_run():
            if not self.task.is_batch or self._why_it_must_go() or self._may_come_again(status):
                self._record(status)
                self._expect_requeue()
            elif status == 0:
                self._clear_job()  # the work is done; nobody needs them any more
        self._hold_nobody_up()

    def _may_come_again(self, status: int) -> bool:
        """Return whether Slurm may start the job once more to give the batch step's status.

        One that has failed keeps its checkpoints, unless that is certain.
        """
        from oci_criu_shim.task import requeue

        return self.task.restarts > 0 and (status == 0 or requeue.comes_again(self.store.directory, self.task))

    def _clear_job(self) -> None:
        """Remove the job's checkpoints, but keep what was cut off its tasks' files."""
        job = os.path.dirname(self.store.path)
        for name in os.listdir(job):
            if name != owner.NAME:
                Store(os.path.join(job, name), ".").clear()

    def _mark(self) -> str:
        """Return the mark of a checkpoint that ended the step before it had finished; an empty string without one."""
        try:
            with open(self.plan.container.path(DONE), encoding="utf-8") as mark:
                return mark.read()
        except FileNotFoundError:
            return ""

    def _mark_late(self) -> str:
        """Leave that mark now, if the child that took the checkpoint was killed before it could; return the mark."""
        taken = self.policy.ended_by() if self.policy.silent in ENDING else None
        if taken is None:
            return ""
        from oci_criu_shim.task.take import KILLED, Taker

        Taker(self.policy).say_ended_by(taken, KILLED)
        self._departure().mark(taken.manifest["reason"], "taken")
        return "taken"

    def _ended_by_itself(self, status: int, told: bool) -> bool:
        if status < 128 and not told:
            return True
        from oci_criu_shim.slurm import controller

        try:
            found = controller.job(self.task.job)
        except ShimError as error:
            self.log.event(
                f"{self.task.describe()} ended with status {status}, and counts as unfinished if its job is restarted: "
                f"it can't be known whether it ended by itself: {error.line()}"
            )
            return False
        if not self.policy.when.preempt:  # else it was said at the signal
            self._departure().tell_of_limit(found)
        return found.goes_on(self.task.restarts)

    def _is_newest_run(self) -> bool:
        """Whether Slurm has not started the job on another node since, taking this one for dead."""
        try:
            with open(os.path.join(self.store.path, STARTED), encoding="utf-8") as stream:
                return int(stream.read() or 0) <= self.task.restarts
        except (OSError, ValueError):
            return False

    def _record(self, status: int) -> None:
        command, bundle = identity(self.plan.bundle)
        record: Finished = {"version": VERSION, "status": status, "command": command, "bundle": bundle}
        try:
            files.write_json(self.path, record, durable=True)
            files.sync(self.store.path)
        except OSError as error:
            self.log.error(
                f"that {self.task.describe()} finished with status {status} can't be written down, "
                f"so a restart of its job takes it for unfinished: {cause_of(error)}"
            )
            return
        if status == 0 or not self.task.is_batch:  # Slurm may not start a job again that has failed
            for seq in self.store.numbers():
                self.store.remove(seq)
        files.remove_if_there(os.path.join(self.store.path, STARTED))

    def _expect_requeue(self) -> None:
        """Have the job start again soon: Slurm (24.11) requeues it once more at its end if its grace time was over."""
        if self.task.restarts:
            from oci_criu_shim.task import requeue

            requeue.mark(self.directory.path, self.task, self.log)

    def _hold_nobody_up(self) -> None:
        """If others of the job are checkpointed meanwhile, have the last of them to be ready requeue the job."""
        if why := self._why_it_must_go():
            self._departure().mark(why, "ended")


def identity(bundle: Bundle) -> tuple[str, str]:
    """Return a step's command and the path of its bundle: they tell steps of the same number apart."""
    command = files.to_json([bundle.process.get("args"), bundle.process.get("cwd")])
    path = bundle.environment().get("SLURM_CONTAINER") or bundle.rootfs
    return command, path
