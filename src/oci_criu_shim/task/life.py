"""A task whose job asked for checkpoints, from its settings to its end: whether it is to run at all, from where it goes
on, and what its end means for its job."""

from __future__ import annotations

import os

from oci_criu_shim import config
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.dump import preflight, rootfs
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.task import compress, history, prune, script_end
from oci_criu_shim.task.ladder import Ladder
from oci_criu_shim.task.policy import Checkpointer
from oci_criu_shim.task.steps import KILLED, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.slurm.tasks import Task
    from oci_criu_shim.supervisor.launch import Supervised
    from oci_criu_shim.supervisor.lifecycle import Plan


class CheckpointedTask:
    """`task` is that of `plan`, `log` its history; ShimError where its checkpoints could not be taken or kept."""

    def __init__(self, plan: Plan, task: Task) -> None:
        self.plan = plan
        self.task = task
        self.settings = config.load()
        preflight.check_bundle(plan.bundle)
        preflight.require_no_group(plan.own_group)
        compression = compress.compression(self.settings.compress, task.job, plan.log)
        directory = task.directory or self.settings.checkpoint_dir
        self.store = Store(directory, task.key, self.settings.quota, compression)
        if task.directory is None:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        self.store.prepare(task.cluster)
        if not task.restarts and os.listdir(self.store.path):
            self._ask_for_restarts()
        self.log = history.Log(plan.log, directory, task)
        self.checkpointer = Checkpointer(plan.container, task, self.store, self.settings, self.log)
        prune.begin(directory, self.settings.keep_ended)

    def _ask_for_restarts(self) -> None:
        """There is something of this task, or of an earlier job of that number; how often the job was restarted
        may have been kept from its environment (`env -i … srun`)."""
        from oci_criu_shim.slurm import controller

        self.task.restarts = controller.job(self.task.job).restarts
        if not self.task.restarts:
            self.store.clear()
            self.store.prepare(self.task.cluster)

    def run(self, container: Supervised) -> int:
        """Have `container` run as far as it is to run; the exit status of the task."""
        step = Step(self.plan, self.checkpointer, container.signals)
        if (status := step.done()) is not None:
            container.pretend()
            return status
        if step.is_too_late():
            container.pretend()
            script_end.outlive(self.task, container.signals)
            return KILLED
        try:
            status = self._begin(container)
        except (ShimError, OSError) as error:
            self.log.note("failed", reason=line_of(error))
            raise
        self.log.note("ended", status=status)
        if not container.orphaned:
            self._settle(step, status, container.told)
        return status

    def _settle(self, step: Step, status: int, told: bool) -> None:
        """Whatever comes of that, the exit status is the container's."""
        try:
            step.ended(status, told)
        except (ShimError, OSError) as error:
            self.log.error(f"what {self.task.describe()} leaves, which ended with {status}, is not in order: {error}")

    def _begin(self, container: Supervised) -> int:
        """From its beginning, or where an earlier run of its job left off."""
        rootfs.begin(self.store, self.plan.bundle, self.settings.layers, self.log)
        if not self.task.restarts or not self.store.started():
            self.store.mark_started()
            if not self.task.restart_dir:
                return container.create()
        container.hold()
        ladder = Ladder(self.plan.container, self.task, self.store, self.settings, container.signals, self.log)
        return ladder.climb(container.begin, container.create)()
