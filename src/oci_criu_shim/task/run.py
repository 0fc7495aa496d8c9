"""Decide about one run of a task whose job asked for checkpoints.

Does it run at all? From where does it go on? And what does its end mean for its job?
"""

from __future__ import annotations

import os

from oci_criu_shim import config
from oci_criu_shim.checkpoints import owner
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container import bundle, criu_config, io_uring, mpi
from oci_criu_shim.errors import Misfit, ShimError, line_of
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import compress, daily_prune, history, own_steps, pointers, script_end
from oci_criu_shim.task.policy import Policy
from oci_criu_shim.task.steps import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.host.signals import Signals
    from oci_criu_shim.slurm.tasks import Task
    from oci_criu_shim.task.ladder import Ladder

KILLED = 128 + 9


class TaskRun:
    """One run of `task` in the container of `plan`; `log` also writes the job's history.

    Raise ShimError if checkpoints of it could not be taken or kept.
    """

    def __init__(self, plan: Plan, task: Task, signals: Signals) -> None:
        self.plan = plan
        self.task = task
        self.signals = signals
        self.settings = config.load()
        mpi.require_none_of_slurms(task)
        if not plan.bundle.is_bare:  # which is as we have made it
            from oci_criu_shim.dump import kept  # it takes long to import
            from oci_criu_shim.dump.survey import Subject

            kept.check_bundle(Subject(plan.bundle, plan.own_group))
        if line := criu_config.ignored(plan.bundle):
            plan.log.event(line)
        given = mpi.inside(plan.bundle.config)
        plan.give(io_uring.hidden(given) if self.settings.hide_io_uring else given)
        directory = task.directory or self.settings.checkpoint_dir
        self.store = Store(
            directory,
            task.key,
            self.settings.quota,
            lambda: compress.compression(self.settings.compress, task.job, plan.log),
        )
        self._prepare()
        if not task.restarts and os.listdir(self.store.path):
            self._ask_for_restarts()
        pointers.note(task, task.directory and os.path.abspath(task.directory), plan.log)
        self.log = history.History(plan.log, directory, task)
        hook = bundle.checkpoint_hook(plan.bundle.config)
        self.policy = Policy(plan.container, task, self.store, self.settings, self.log, hook)
        self.step = Step(plan, self.policy, signals)
        self.is_late = False
        daily_prune.begin(directory, self.settings.keep_ended)

    def _prepare(self) -> None:
        """Make the place of its checkpoints. Raise Misfit if the job ran before, and what it left is not here."""
        directory = self.store.directory
        if self.task.restarts and not os.path.isdir(os.path.dirname(self.store.path)):
            from oci_criu_shim.task import where

            where.require_here(directory, self.task)
        try:
            owner.make(directory, parents=self.task.directory is None)
            self.store.prepare(self.task.cluster)
        except ShimError as error:
            if self.task.restarts and not os.path.isdir(directory):
                raise Misfit(str(error), error.hint) from None
            raise

    def _ask_for_restarts(self) -> None:
        """Ask Slurm how often the job was restarted: the environment may have lost that (`env -i … srun`).

        The task's directory has something, of the task or of an earlier job of the same number.
        """
        from oci_criu_shim.slurm import controller

        self.task.restarts = controller.job(self.task.job).restarts
        if not self.task.restarts:
            self.store.clear()
            self.store.prepare(self.task.cluster)

    def over(self) -> int | None:
        """Return the exit status of a task whose container is not to run; None if it is to run."""
        status = self.step.done()
        if status is None and self.step.is_too_late():
            self.is_late, status = True, KILLED
        return status

    def wait_for_script(self) -> None:
        """Wait for the end of the batch script if the job is about to be requeued."""
        if self.is_late:
            script_end.outlive(self.task, self.signals)

    def begin(self) -> Ladder | None:
        """Return the checkpoints from which the task may go on; None if it starts from its beginning."""
        if not self.plan.bundle.is_bare:
            from oci_criu_shim.dump import rootfs

            rootfs.begin(self.store, self.plan.bundle, self.settings.layers, self.log)
        if not self.task.restarts or not self.store.started():
            self.store.mark_started()
            if not self.task.restart_dir:
                return None
        is_script = self.plan.bundle.is_bare and self.task.is_batch
        if is_script and not self.store.numbers() and own_steps.were_there(self.store):
            return None  # its steps go on
        from oci_criu_shim.task.ladder import Ladder

        return Ladder(self.plan.container, self.task, self.store, self.settings, self.log)

    def _note_end(self) -> None:
        try:
            RunDirectory(self.plan.container.root).note_end()
        except OSError as error:
            self.log.debug(f"the job's node is free a second later: {line_of(error)}")

    def ended(self, status: int, told: bool, orphaned: bool) -> None:
        """See to what the container's end with `status` means for its job, unless it was `orphaned`.

        `told` says whether it was sent signals that may have ended it. A failure is logged, and never changes the exit
        status.
        """
        self.log.note("ended", status=status)
        if orphaned:
            return
        if self.task.is_batch:
            self._note_end()
        try:
            self.step.ended(status, told)
        except (ShimError, OSError) as error:
            what = f"what {self.task.describe()} leaves, which ended with {status}"
            self.log.error(f"{what}, is not in order: {line_of(error)}")
