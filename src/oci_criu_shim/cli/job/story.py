"""What a job's history (history.py) amounts to: runs, from one start or restore to their end, and what they kept.

Times are seconds since the epoch, lengths are seconds.
"""

from __future__ import annotations

import time

from oci_criu_shim.task import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

BEGINNINGS = ("started", "restored")
PROBLEMS = ("checkpoint-failed", "refused", "fell-back", "failed")
# Outcomes of runs: `died` is one whose end nobody saw, `requeued` one that did not begin, and is to on another node.
RUNNING, CHECKPOINTED, REQUEUED, DIED = "running", "checkpointed", "requeued", "died"
FAILED, COMPLETED = "failed", "completed"
WAITING = "waiting"
# What a job is, by its tasks' last runs: the first of these that one of them is.
STATES = {RUNNING: RUNNING, CHECKPOINTED: WAITING, REQUEUED: WAITING, DIED: DIED, FAILED: FAILED, COMPLETED: COMPLETED}


class Run:
    """A task's life from a start or restore to its end. `end` is None while it runs, or where nobody saw it (its node
    died). `checkpoints` are its events of that kind, and `source` is the last of them that is of use. `lost` may be
    known as a bound only."""

    def __init__(self, first: dict[str, Any]) -> None:
        self.node: str = first["node"]
        self.restarts: int = first["restarts"]
        self.begin: float = first["time"] - first.get("seconds", 0)
        self.end: float | None = None
        self.restored: dict[str, Any] | None = None
        self.begun = False
        self.checkpoints: list[dict[str, Any]] = []
        self.problems: list[dict[str, Any]] = []
        self.status: int | None = None
        self.outcome = RUNNING
        self.last: float = self.begin
        self.source: dict[str, Any] | None = None
        self.waited: float | None = None
        self.kept = self.lost = 0.0
        self.bound = ""

    def add(self, event: dict[str, Any]) -> None:
        """Take the next event of this run."""
        kind = event["event"]
        self.last = event["time"]
        if kind in BEGINNINGS:
            self.begun = True
            self.restored = event if kind == "restored" else None
        elif kind == "checkpointed":
            self.checkpoints.append(event)
            if not event["runs_on"]:
                self.outcome, self.end = CHECKPOINTED, event["at"] + event["frozen"]
        elif kind == "requeued" and not self.begun:
            self.outcome, self.end = REQUEUED, event["time"]
        elif kind in PROBLEMS:
            self.problems.append(event)
        if kind in ("ended", "failed") and self.outcome == RUNNING:
            self.status, self.end = event.get("status"), event["time"]
            self.outcome = COMPLETED if self.status == 0 else FAILED

    @property
    def until(self) -> float:
        """Its end, as far as that is known."""
        if self.end is not None:
            return self.end
        return float(max(self.last, time.time()) if self.outcome == RUNNING else self.last)

    @property
    def lost_from(self) -> float:
        """When what it lost, if anything, began."""
        return float(self.source["at"]) + float(self.source["frozen"]) if self.source else self.begin

    def is_of(self, event: dict[str, Any]) -> bool:
        """Whether the next event of the task is this run's."""
        return self.restarts == event["restarts"] and not (self.begun and event["event"] in BEGINNINGS)

    def describe(self) -> dict[str, Any]:
        """For JSON."""
        names = ("node", "restarts", "begin", "end", "outcome", "status", "waited", "kept", "lost", "bound")
        return {name: getattr(self, name) for name in names} | {"restored": self.restored}


class Task:
    """The runs of one task, `key` being `<step>.<task>`. The last one may still be running where the job is `alive`."""

    def __init__(self, key: str, events: Iterable[dict[str, Any]], alive: bool) -> None:
        self.key = key
        self.runs: list[Run] = []
        for event in events:
            if not self.runs or not self.runs[-1].is_of(event):
                self.runs.append(Run(event))
            self.runs[-1].add(event)
        for number, run in enumerate(self.runs):
            if run.restored:
                self._find_source(run.restored, number)
        last = next((run for run in reversed(self.runs) if run.begun), None)
        if last and last.checkpoints:
            last.source = last.checkpoints[-1]  # the next run would go on from it
        for before, after in zip(self.runs, [*self.runs[1:], None], strict=True):
            if before.outcome == RUNNING and (after or not alive):
                before.outcome = DIED
            _weigh(before, after)

    def _find_source(self, restored: dict[str, Any], number: int) -> None:
        """Note, with the run that took the checkpoint that run `number` was restored from, that it was of use."""
        for run in reversed(self.runs[:number]):
            for checkpoint in reversed(run.checkpoints):
                if checkpoint["path"] == restored["path"]:
                    run.source = max(run.source or checkpoint, checkpoint, key=lambda one: float(one["at"]))
                    return

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """All of them, oldest first."""
        return [checkpoint for run in self.runs for checkpoint in run.checkpoints]

    def describe(self) -> dict[str, Any]:
        """For JSON."""
        problems = [problem for run in self.runs for problem in run.problems]
        runs = [run.describe() for run in self.runs]
        return {"task": self.key, "runs": runs, "checkpoints": self.checkpoints, "problems": problems}


def _weigh(run: Run, after: Run | None) -> None:
    """What of a run's work was kept and what was lost, once it is over but for its own end."""
    if after and run.end is not None:
        after.waited = max(after.begin - run.end, 0.0)
    if run.outcome in (RUNNING, COMPLETED) or not run.begun:
        return
    end = run.until
    if run.end is None:
        run.bound, end = ("at most ", after.begin) if after else ("at least ", run.last)
    run.kept = max(run.source["at"] - run.begin, 0.0) if run.source else 0.0
    run.lost = round(max(end - run.lost_from, 0.0), 3)


class Story:
    """A job's tasks, with the sums of theirs. `alive` says whether Slurm still knows it."""

    def __init__(self, job: int, events: dict[str, list[dict[str, Any]]], alive: bool) -> None:
        self.job = job
        self.name: str = next(iter(events.values()))[-1]["name"] or str(job)
        self.tasks = [Task(key, events[key], alive) for key in sorted(events, key=_order)]
        self.runs = [run for task in self.tasks for run in task.runs]
        self.checkpoints = [checkpoint for task in self.tasks for checkpoint in task.checkpoints]
        self.restores = [run.restored for run in self.runs if run.restored]
        last = {task.runs[-1].outcome for task in self.tasks}
        self.state = next(name for outcome, name in STATES.items() if outcome in last)
        self.begin = min(run.begin for run in self.runs)
        self.end = max(run.until for run in self.runs)
        self.kept = sum(run.kept for run in self.runs)
        self.lost = sum(run.lost for run in self.runs)
        bounds = {run.bound for run in self.runs if run.bound}
        self.bound = "about " if len(bounds) > 1 else "".join(bounds)
        self.waited = sum(run.waited or 0.0 for run in self.runs)
        self.frozen = sum(checkpoint["frozen"] for checkpoint in self.checkpoints)

    @property
    def nodes(self) -> list[str]:
        """Where it ran, in order."""
        return list(dict.fromkeys(run.node for run in sorted(self.runs, key=lambda run: run.begin)))

    @property
    def title(self) -> str:
        """Its number, and what Slurm calls it where that is something else."""
        return str(self.job) if self.name == str(self.job) else f"{self.job} ({self.name})"

    def describe(self) -> dict[str, Any]:
        """For JSON."""
        names = ("job", "name", "state", "begin", "end", "nodes", "kept", "lost", "bound", "waited", "frozen")
        return {name: getattr(self, name) for name in names} | {"tasks": [task.describe() for task in self.tasks]}


def _order(key: str) -> tuple[bool, int, int]:
    """`batch` before the steps, and those by their numbers."""
    step, _, task = key.partition(".")
    return step.isdecimal(), *(int(word) if word.isdecimal() else 0 for word in (step, task))  # type: ignore[return-value]


def when(seconds: float) -> str:
    """A time as `ckpt list` shows it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def name(event: dict[str, Any]) -> str:
    """The number of the checkpoint that an event tells of."""
    return str(event["path"]).rpartition("/")[2]


def tell(directory: str, job: int, alive: bool = True) -> Story | None:
    """The story of a job whose checkpoints are below `directory`; None where it has no history there."""
    events = history.read(directory, job)
    return Story(job, events, alive) if events else None
