"""Describe a job as Slurm has it at one moment."""

from __future__ import annotations

import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Fields(TypedDict):
        """The fields that are used. Times are in seconds since the epoch, or 0; texts may be empty."""

        job_id: int
        name: str  # for Slurm's commands: the number of an array's last task would name the whole array
        states: list[str]  # the base state, and flags
        restarts: int
        preempt_time: int
        suspend_time: int  # when it was last suspended, or went on after that
        end_time: int
        limited: bool
        partition: str
        batch: bool
        batch_host: str
        requeue: bool
        expedited: bool
        node_count: int
        required_nodes: str
        excluded_nodes: str
        features: str
        comment: str


ENDED = (
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"),
    *("BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"),
)


class Job:
    """One look at a job: several answers about the same moment."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.name = fields["name"]
        self.runs = "RUNNING" in fields["states"]
        self.restarts = fields["restarts"]
        self.is_batch = fields["batch"]  # any other is never requeued
        self.is_requeueable = fields["requeue"]  # by sbatch --requeue, or the site's JobRequeue
        self.is_expedited = fields["expedited"]  # Slurm starts it again at once (--requeue=expedite)
        self.batch_host = fields["batch_host"]  # the node on which its batch script runs, or ran
        self.has_timed_out = "TIMEOUT" in fields["states"]  # it is being ended at its time limit, or was
        self.comment = fields["comment"]
        self.has_completed = "COMPLETED" in fields["states"]  # with status 0, and is not to run again

    @property
    def ended_as(self) -> str:
        """The state that the job has ended in, in Slurm's word; empty if it runs, or is to."""
        return next((state for state in self.fields["states"] if state in ENDED), "")

    @property
    def waits(self) -> bool:
        """Whether the job is to start, perhaps again, once the rest of its last run has ended."""
        return "PENDING" in self.fields["states"]

    @property
    def _ends_to_restart(self) -> bool:
        """Whether slurmctld has requeued the job, and some of its steps have yet to end."""
        return self.waits and "COMPLETING" in self.fields["states"]

    @property
    def is_preempted(self) -> bool:
        """Whether the job's preemption has begun, and some of the job still runs.

        It is in its grace time, or already requeued, because its batch script has ended meanwhile (batch_requeue_fini()
        in slurmctld ends both). A job that is preempted by being suspended keeps the time of that when it goes on.
        """
        since = self.fields["preempt_time"]
        return 0 < since >= self.fields["suspend_time"] and (self.runs or self._ends_to_restart)

    @property
    def is_requeued(self) -> bool:
        """Whether the job was requeued other than by a preemption, and some of it still runs."""
        return self.fields["preempt_time"] == 0 and self._ends_to_restart

    def goes_on(self, restarts: int) -> bool:
        """Return whether the job's run after so many restarts still runs, and no preemption has begun."""
        return self.runs and self.restarts == restarts and not self.is_preempted

    @property
    def has_script(self) -> bool:
        """Whether the job has a batch script that runs."""
        return self.fields["batch"] and self.runs

    @property
    def end_time(self) -> int:
        """The job's time limit, in seconds since the epoch; 0 if it has none."""
        return self.fields["end_time"] if self.fields["limited"] else 0

    def seconds_left(self) -> float:
        """Return the seconds until Slurm ends the job, at the end of its grace time or at its time limit."""
        return self.fields["end_time"] - time.time()

    def excluding(self, node: str) -> str:
        """Return the word of `scontrol update` that keeps the job, while it is pending, away from `node` too."""
        excluded = self.fields["excluded_nodes"]
        return f"ExcNodeList={excluded},{node}" if excluded else f"ExcNodeList={node}"

    def wanting(self, feature: str) -> str:
        """Return the word of `scontrol update` that has the job want `feature`, too; empty if it does already."""
        wanted = self.fields["features"]
        if feature in re.split(r"[^\w.-]+", wanted):
            return ""
        if not wanted:
            return f"Features={feature}"
        return f"Features={wanted}&{feature}" if re.fullmatch(r"[\w.&-]+", wanted) else f"Features=({wanted})&{feature}"
