"""`job status`: show runs, checkpoints and restores of one job, or a line for each job."""

from __future__ import annotations

import os

from oci_criu_shim import units
from oci_criu_shim.cli import directories
from oci_criu_shim.cli.job import story
from oci_criu_shim.cli.job.story import name, when
from oci_criu_shim.cli.report import print_json, print_table
from oci_criu_shim.errors import USAGE, Others, ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import controller
from oci_criu_shim.task import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.cli.job.story import Run, Story, TaskRuns


SLACK = 60  # seconds that nodes may note things after Slurm's end of their job
OWNERS = "a history is for its owner alone"
COLUMNS = (
    *("JOB", "NAME", "STATE", "BEGAN (UTC)", "RUNS", "CHECKPOINTS", "RESTORES"),
    *("KEPT", "LOST", "WAITED", "NODES"),
)
CHECKPOINT_COLUMNS = ("SEQ", "RUN", "AT (UTC)", "WHY", "SIZE", "SECONDS", "FROZEN", "")


def status(call: Invocation) -> int:
    """Show a job's runs, checkpoints and restores, or list the jobs that have a history."""
    picture, word, given = call.value("timeline"), call.operand(0), call.value("checkpoint-dir")
    if picture and not word:
        raise ShimError("--timeline draws one job: it needs a JOBID", status=USAGE)
    if not word:
        _list(directories.all_of(given), call)
        return 0
    found = _find(word, given)
    if picture:
        from oci_criu_shim.cli.job.timeline import draw

        draw(found, picture)
    elif call.flag("json"):
        print_json(found.describe())
    else:
        _show(found)
    return 0


def _find(word: str, given: str | None) -> Story:
    """Return the job that `word` names; raise ShimError if it has no history. Slurm need not know it any more."""
    directory, job = directories.of_job(word, given)
    require_own(directory, job)
    found = _tell(directory, [job])
    if not found:
        raise ShimError(f"job {word} has no history in {directory}", directories.OTHERS)
    return found[-1]


def require_own(directory: str, job: int) -> None:
    """Raise ShimError if a job's history is another user's, or can't be read."""
    """Raise ShimError unless a job's history is the caller's, or there is none."""
    try:
        uid = history.owner(directory, job)
    except FileNotFoundError:
        return
    except OSError as error:
        hint = "--checkpoint-dir names another directory, of your own"
        raise ShimError(f"the history in {directory} cannot be read: {error.strerror}", hint) from None
    if uid != os.geteuid():
        user = process.user_name(uid)
        raise Others(f"the history of job {job} belongs to user {user}", OWNERS, user)


def _tell(directory: str, jobs: Iterable[int]) -> list[Story]:
    """Return the jobs' stories. If one has no end, ask Slurm: its node may have died, or all of it been killed.

    One that waits may be held, or have been cancelled.
    """
    found = [one for job in jobs if (one := story.tell(directory, job))]
    states = {one.state for one in found}
    if states.isdisjoint((story.RUNNING, story.WAITING)):
        return found
    try:
        known = controller.known_jobs(ended=False)
        _note_ends(directory, [one for one in found if one.goes_on and one.job not in known])
        held = controller.held() if story.WAITING in states else {}
    except ShimError:
        return found
    for one in found:
        if one.state == story.WAITING and one.job in held:
            one.note_held(held[one.job])
    return [one if one.job in known else story.tell(directory, one.job, alive=False) or one for one in found]


def _note_ends(directory: str, gone: Sequence[Story]) -> None:
    """Ask Slurm how those jobs have ended that have ended a while ago, and note it: it soon forgets them."""
    recent = controller.known_jobs() if gone else set()
    for one in gone:
        if one.job in recent:
            found = controller.job(one.job)
            if found.ended_as and found.fields["end_time"] >= one.last - SLACK:  # else it is another cluster's
                history.note_end(directory, one.job, found)


def _list(places: list[str], call: Invocation) -> None:
    told = [one for directory in places for one in _tell(directory, history.jobs(directory))]
    found = sorted(told, key=lambda one: one.job)
    if call.flag("json"):
        print_json([one.describe() for one in found])
    elif found:
        print_table([list(COLUMNS), *map(_fields, found)])
    else:
        print(f"no job of yours has a history in {', '.join(places)}")
    for directory in places:
        for user in map(process.user_name, history.others(directory)):
            how = call.owners_way(user) or OWNERS
            call.log.event(f"histories of {user} in {directory} can't be read (hint: {how})")


def _fields(one: Story) -> list[object]:
    job = f"{one.job} ({one.array_task})" if one.array_task else one.job
    counts = (len(one.runs), len(one.checkpoints), len(one.restores))
    return [job, units.short(one.name) or "-", one.state, when(one.begin), *counts, *_lengths(one), ",".join(one.nodes)]


def _lengths(one: Story) -> list[str]:
    return [units.time(one.safe if one.goes_on else one.kept), _lost(one), units.time(one.waited)]


def _lost(one: Story | Run) -> str:
    return one.bound + units.time(one.lost)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _show(found: Story) -> None:
    counts = [_count(len(found.runs), "run"), _count(len(found.checkpoints), "checkpoint")]
    print(f"job {found.title}: {found.state}; {', '.join(counts)}, {_count(len(found.restores), 'restore')}")
    if found.reason:
        print(found.reason)
    print(f"{found.work}, lost {_lost(found)}; waited {units.time(found.waited)}, frozen {found.frozen:.2f} s")
    for task in found.tasks:
        print(f"\nstep {task.key.replace('.', ', task ')}:")
        print_table(_runs(task), "  ")
        if task.checkpoints:
            print("checkpoints:")
            print_table(_checkpoints(task), "  ")
        for run in task.runs:
            for problem in run.problems:
                see = f" (see {log})" if (log := problem.get("log")) else ""
                print(f"{when(problem['time'])} {problem['event']} on {problem['node']}: {problem['reason']}{see}")


def _runs(task: TaskRuns) -> list[list[object]]:
    rows: list[list[object]] = [
        ["RUN", "NODE", "BEGIN (UTC)", "END (UTC)", "FROM", "OUTCOME", "KEPT", "LOST", "WAITED"]
    ]
    for number, run in enumerate(task.runs, 1):
        end = when(run.end) if run.end is not None else "-"
        outcome = f"{run.outcome} ({run.status})" if run.status else run.outcome
        waited = units.time(run.waited) if run.waited is not None else "-"
        kept = units.time(run.kept) if run.outcome != story.COMPLETED else "-"
        lost = _lost(run) if run.outcome not in (story.RUNNING, story.COMPLETED) else "-"
        rows.append([number, run.node, when(run.begin), end, _origin(run), outcome, kept, lost, waited])
    return rows


def _origin(run: Run) -> str:
    return run.origin or ("the start" if run.begun else "-")


def _checkpoints(task: TaskRuns) -> list[list[object]]:
    rows: list[list[object]] = [list(CHECKPOINT_COLUMNS)]
    for number, run in enumerate(task.runs, 1):
        for event in run.checkpoints:
            size, seconds, frozen = units.size(event["bytes"]), f"{event['seconds']:.2f}", f"{event['frozen']:.2f}"
            waited = f"waited {units.time(event['waited'])}" if event.get("waited", 0) >= 1 else ""
            gone = f"on {event['node']} only" if event.get("local") else "removed"
            now = ", ".join(filter(None, (waited, "" if task.has(event) else gone)))
            rows.append([name(event), number, when(event["at"]), event["reason"], size, seconds, frozen, now])
    return rows
