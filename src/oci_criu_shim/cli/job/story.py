"""Make runs of a job's history (task/history.py): from a start or restore to its end, with the work kept and lost.

Times are seconds since the epoch, lengths are seconds.
"""

from __future__ import annotations

import os
import re
import time

from oci_criu_shim import units
from oci_criu_shim.checkpoints.owner import CHECKPOINT
from oci_criu_shim.task import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oci_criu_shim.cli.job.documents import CheckpointDocument, JobDocument, RunDocument, TaskDocument
    from oci_criu_shim.task.history import Event

PROBLEMS = (
    *("checkpoint-failed", "checkpoint-late", "not-copied", "hook-failed"),
    *("refused", "fell-back", "failed", "not-requeued"),
)
# Outcomes of runs: nobody saw the end of one that `died`; one that was `requeued` is to begin on another node.
RUNNING, CHECKPOINTED, REQUEUED, DIED = "running", "checkpointed", "requeued", "died"
FAILED, COMPLETED = "failed", "completed"
CANCELLED, TIMEOUT, NO_MEMORY = "cancelled", "timeout", "out-of-memory"
# What Slurm ended, by its word for the job's state; what it ended otherwise has died.
ENDS = {"CANCELLED": CANCELLED, "TIMEOUT": TIMEOUT, "DEADLINE": TIMEOUT, "OUT_OF_MEMORY": NO_MEMORY}
# States of jobs, too: one that `stopped` has been checkpointed or requeued, but Slurm does not start it again.
# One that was `preempted` is one of these, too.
WAITING, HELD, STOPPED, PREEMPTED = "waiting", "held", "stopped", "preempted"
# The state of a job, by the outcomes of its tasks' last runs: that of the first outcome here that one of them has.
STATES = {
    **{RUNNING: RUNNING, STOPPED: STOPPED, PREEMPTED: PREEMPTED, CHECKPOINTED: WAITING, REQUEUED: WAITING},
    **{name: name for name in (CANCELLED, TIMEOUT, NO_MEMORY, DIED, FAILED, COMPLETED)},
}
BY_USERS = ("JobHeldUser", "job_requeued_in_held_state")  # reasons of jobs that their users may release


class Run:
    """A task's life from a start or restore to its end.

    `end` is None while it runs, or if nobody saw it (the node died). `checkpoints` are the events of that kind, and
    `source` is the last of them that is of use. `lost` may be known as a bound only.
    """

    def __init__(self, first: Event) -> None:
        self.node = first["node"]
        self.restarts = first["restarts"]
        self.begin = first["time"] - first.get("seconds", 0)
        self.end: float | None = None
        self.restored: Event | None = None
        self.begun = False
        self.checkpoints: list[Event] = []
        self.problems: list[Event] = []
        self.status: int | None = None
        self.outcome = RUNNING
        self.last = self.begin
        self.source: Event | None = None
        self.waited: float | None = None
        self.kept = self.lost = 0.0
        self.bound = ""
        self.stopped = ""  # why Slurm does not start the job again

    def add(self, event: Event) -> None:
        """Take the next event of this run."""
        kind = event["event"]
        self.last = event["at"] if kind == "job-ended" else event["time"]
        if kind in history.BEGINNINGS:
            self.begun = True
            self.restored = event if kind == "restored" else None
        elif kind == "checkpointed":
            self.checkpoints.append(event)
            if not event["runs_on"]:
                self.outcome, self.end = CHECKPOINTED, event["at"] + event["frozen"]
        elif kind == "copied":
            for checkpoint in self.checkpoints:
                if checkpoint["path"] == event["path"]:
                    checkpoint["local"] = ""
        elif kind == "requeued" and not self.begun:
            self.outcome, self.end = REQUEUED, event["time"]
        elif kind in PROBLEMS:
            self.problems.append(event)
        if kind == "not-requeued":
            self.stopped = event["reason"]
        if kind in ("ended", "failed") and self.outcome in (RUNNING, DIED, *ENDS.values()):
            self.status, self.end = event.get("status"), event["time"]
            if self.status == 0 or self.outcome not in ENDS.values():
                self.outcome = COMPLETED if self.status == 0 else FAILED
        if kind == "job-ended" and self.outcome == RUNNING:  # a program that handles signals has yet to end
            self.outcome, self.end = ENDS.get(event["state"], DIED), event["at"]

    @property
    def stopped_as(self) -> str:
        """The state of its job, which Slurm does not start again."""
        return PREEMPTED if self.checkpoints and self.checkpoints[-1]["reason"] == "preempt" else STOPPED

    @property
    def until(self) -> float:
        """The end, as far as it is known."""
        if self.end is not None:
            return self.end
        return max(self.last, time.time()) if self.outcome == RUNNING else self.last

    @property
    def lost_from(self) -> float:
        """When the work that it lost, if any, began."""
        return self.source["at"] + self.source["frozen"] if self.source else self.begin

    @property
    def origin(self) -> str:
        """The checkpoint that it was restored from, as --restart-dir takes it: JOB:SEQ, or a path; empty if none."""
        path = self.restored["path"] if self.restored else ""
        found = re.fullmatch(CHECKPOINT, path)
        return f"{found['job']}:{os.path.basename(path)}" if found else path

    def is_of(self, event: Event) -> bool:
        """Return whether the task's next event belongs to this run."""
        return self.restarts == event["restarts"] and not (self.begun and event["event"] in history.BEGINNINGS)

    def describe(self) -> RunDocument:
        """Return it for JSON."""
        return {
            "node": self.node,
            "restarts": self.restarts,
            "begin": self.begin,
            "end": self.end,
            "outcome": self.outcome,
            "status": self.status,
            "waited": self.waited,
            "kept": self.kept,
            "lost": self.lost,
            "bound": self.bound,
            "restored": self.restored,
            "origin": self.origin,
            "until": self.until,
            "lost_from": self.lost_from,
        }


class TaskRuns:
    """The runs of one task, `key` being `<step>.<task>`. The last one may still be running if the job is `alive`."""

    def __init__(self, key: str, events: Iterable[Event], alive: bool) -> None:
        self.key = key
        self.runs: list[Run] = []
        self.ended: Event | None = None  # the end of the job, if it was noted
        self.there: dict[str, Event] = {}  # {path: the checkpoint that is there}
        for event in events:
            if event["event"] == "job-ended":
                self.ended = event
                if not self.runs or self.runs[-1].restarts != event["restarts"]:
                    continue
            elif event["event"] in history.BEGINNINGS:
                self.ended = None
            if not self.runs or not self.runs[-1].is_of(event):
                self.runs.append(Run(event))
            self.runs[-1].add(event)
        for number, run in enumerate(self.runs):
            if run.restored:
                self._find_source(run.restored, number)
        taken = {checkpoint["path"]: checkpoint for checkpoint in self.checkpoints}  # a number may be taken again
        self.there = {path: event for path, event in taken.items() if os.path.lexists(path)}
        last = next((run for run in reversed(self.runs) if run.begun), None)
        if last:  # the next run would go on from it
            usable = filter(self.has, last.checkpoints) if alive and last.outcome == RUNNING else last.checkpoints
            last.source = next(iter(reversed(list(usable))), last.source)
        for before, after in zip(self.runs, [*self.runs[1:], None], strict=True):
            if before.outcome == RUNNING and (after or not alive):
                before.outcome = DIED
            _weigh(before, after)

    def _find_source(self, restored: Event, number: int) -> None:
        """Note the checkpoint that run `number` was restored from as of use, with the run that took it."""
        for run in reversed(self.runs[:number]):
            for checkpoint in reversed(run.checkpoints):
                if checkpoint["path"] == restored["path"]:
                    run.source = max(run.source or checkpoint, checkpoint, key=lambda one: one["at"])
                    return

    @property
    def checkpoints(self) -> list[Event]:
        """The checkpoints of all runs, oldest first."""
        return [checkpoint for run in self.runs for checkpoint in run.checkpoints]

    def has(self, checkpoint: Event) -> bool:
        """Return whether that checkpoint has not been removed."""
        return self.there.get(checkpoint["path"]) is checkpoint

    @property
    def fate(self) -> str:
        """How the job has ended, as outcomes have it; empty if that was not noted."""
        return ENDS.get(self.ended["state"], DIED) if self.ended else ""

    @property
    def given_up(self) -> float | None:
        """When its job ended while it waited to go on; None if it did not."""
        last = self.runs[-1]
        return max(self.ended["at"], last.until) if self.ended and last.outcome in (CHECKPOINTED, REQUEUED) else None

    @property
    def newest(self) -> Event | None:
        """The newest checkpoint that is there."""
        return next(filter(self.has, reversed(self.checkpoints)), None)

    @property
    def safe(self) -> float:
        """How much of its work is not lost if it ends now."""
        return sum(run.kept for run in self.runs) if self.newest else 0.0

    def describe(self) -> TaskDocument:
        """Return it for JSON."""
        problems = [problem for run in self.runs for problem in run.problems]
        runs = [run.describe() for run in self.runs]
        checkpoints: list[CheckpointDocument] = [
            {**event, "seq": _number(event), "removed": not self.has(event)} for event in self.checkpoints
        ]
        return {
            "task": self.key,
            "runs": runs,
            "checkpoints": checkpoints,
            "problems": problems,
            "ended": self.ended,
            "fate": self.fate,
            "given_up": self.given_up,
        }


def _weigh(run: Run, after: Run | None) -> None:
    """Set how much of a run's work was kept and lost, unless it completed, and how long the next one waited."""
    if after and run.end is not None:
        after.waited = max(after.begin - run.end, 0.0)
    if run.outcome == COMPLETED or not run.begun:
        return
    run.kept = max(run.source["at"] - run.begin, 0.0) if run.source else 0.0
    if run.outcome == RUNNING:
        return
    end = run.until
    if run.end is None:
        run.bound, end = ("at most ", after.begin) if after else ("at least ", run.last)
    run.lost = round(max(end - run.lost_from, 0.0), 3)


class Story:
    """A job's tasks and their sums; `alive` says whether Slurm still knows the job."""

    def __init__(self, job: int, events: dict[str, list[Event]], alive: bool) -> None:
        self.job = job
        steps = sorted(events, key=_order)
        self.id = events[steps[0]][-1]["name"] or str(job)
        # A step of srun may have a name of its own, and earlier versions noted none.
        self.name = next((event["job_name"] for key in steps for event in events[key] if event.get("job_name")), "")
        self.tasks = [TaskRuns(key, events[key], alive) for key in steps]
        self.runs = [run for task in self.tasks for run in task.runs]
        self.checkpoints = [checkpoint for task in self.tasks for checkpoint in task.checkpoints]
        self.restores = [run.restored for run in self.runs if run.restored]
        self.state = self._state(alive)
        self.reason = self._reason()  # of its state, and how it goes on
        self.begin = min(run.begin for run in self.runs)
        self.end = max(*(run.until for run in self.runs), *(task.given_up or 0.0 for task in self.tasks))
        self.last = max(run.last for run in self.runs)  # when it was last heard of
        self.kept = sum(run.kept for run in self.runs)
        self.lost = sum(run.lost for run in self.runs)
        bounds = {run.bound for run in self.runs if run.bound}
        self.bound = "about " if len(bounds) > 1 else "".join(bounds)
        self.waited = sum(run.waited or 0.0 for run in self.runs)
        self.frozen = sum(checkpoint["frozen"] for checkpoint in self.checkpoints)

    @property
    def nodes(self) -> list[str]:
        """The nodes it ran on, in order."""
        return list(dict.fromkeys(run.node for run in sorted(self.runs, key=lambda run: run.begin)))

    @property
    def title(self) -> str:
        """Its number, Slurm's name for it if that differs, and its user's."""
        others = ", ".join(filter(None, (self.array_task, self.name)))
        return f"{self.job} ({others})" if others else str(self.job)

    def _state(self, alive: bool) -> str:
        last = [task.runs[-1] for task in self.tasks]
        outcomes = {run.stopped_as if run.stopped else run.outcome for run in last}
        state = next(name for outcome, name in STATES.items() if outcome in outcomes)
        if state == WAITING and not alive:
            return next((task.fate for task in self.tasks if task.fate in ENDS.values()), STOPPED)
        return state

    def _reason(self) -> str:
        told = next((task.runs[-1].stopped for task in self.tasks if task.runs[-1].stopped), "")
        if told or self.goes_on or self.state == COMPLETED:
            return told
        reasons = {
            TIMEOUT: "`--checkpoint=preempt,timeout` has a job go on after its time limit",
            STOPPED: "Slurm does not start it again",
        }
        way = f"a job with --restart-dir={self.job} goes on from its checkpoints"
        is_there = any(task.newest for task in self.tasks)
        return "; ".join(filter(None, (reasons.get(self.state), way if is_there else "")))

    @property
    def work(self) -> str:
        """How much of its work is kept, or safe while it goes on, in words."""
        if not self.goes_on:
            return f"work kept {units.time(self.kept)}"
        newest = [f"checkpoint {name(task.newest)}" if task.newest else "no checkpoint" for task in self.tasks]
        return f"safe: {units.time(self.safe)}" + ("" if newest[1:] else f" ({newest[0]})")

    @property
    def safe(self) -> float:
        """How much of all its tasks' work is not lost if it ends now."""
        return sum(task.safe for task in self.tasks)

    @property
    def array_task(self) -> str:
        """Slurm's name for it, 12_3, if it is of an array."""
        return "" if self.id == str(self.job) else self.id

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or is to run again."""
        return self.state in (RUNNING, WAITING, HELD)

    def note_held(self, reason: str) -> None:
        """Note that Slurm holds the job, for its `reason`."""
        by = "" if reason in BY_USERS else "an admin, by "
        self.state, self.reason = HELD, f"{reason}: it waits for {by}`scontrol release {self.id}`"

    def describe(self) -> JobDocument:
        """Return it for JSON."""
        return {
            "job": self.job,
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            "begin": self.begin,
            "end": self.end,
            "nodes": self.nodes,
            "kept": self.kept,
            "safe": self.safe if self.goes_on else None,
            "lost": self.lost,
            "bound": self.bound,
            "waited": self.waited,
            "frozen": self.frozen,
            "tasks": [task.describe() for task in self.tasks],
        }


def _order(key: str) -> tuple[int, int]:
    """Return a key that sorts `batch` before the steps, and these by their numbers."""
    step, _, task = key.partition(".")
    return int(step) if step.isdecimal() else -1, int(task) if task.isdecimal() else 0


def when(seconds: float) -> str:
    """Return a time as `ckpt list` shows it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def name(event: Event) -> str:
    """Return the number of the checkpoint that an event is about."""
    return event["path"].rpartition("/")[2]


def _number(event: Event) -> int | None:
    text = name(event)
    return int(text) if text.isascii() and text.isdecimal() else None  # a user may have written there


def tell(directory: str, job: int, alive: bool = True) -> Story | None:
    """Return the story of a job whose checkpoints are below `directory`; None if it has no history there."""
    found = history.read(directory, job)
    events = {key: some for key, some in found.items() if any(event["event"] != "job-ended" for event in some)}
    return Story(job, events, alive) if events else None
