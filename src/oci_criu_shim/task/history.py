"""Keep what happened to a job's tasks, beside their checkpoints and for longer than those:

    <checkpoint directory>/history/<job>/<step>.<task>.jsonl    a line of JSON for each event
                                        /<step>.<task>.<restarts>.restore-<seq>.log    CRIU's, of a refused checkpoint

A line is an Event, and has `seq` besides: the number of a checkpoint whose `path` is among the facts.
The words that tell the user of it are given together with it: log.event() and log.error() take both.
"""

from __future__ import annotations

import os
import stat
import time

from oci_criu_shim import files, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NotRequired, TypedDict

    from oci_criu_shim.slurm.job import Job
    from oci_criu_shim.slurm.tasks import Task

    class Event(TypedDict):
        """What a line says; each kind of event has the facts that EVENTS lists."""

        time: float  # seconds since the epoch
        node: str
        restarts: int  # of the job, by then
        name: str  # the job's, for Slurm's commands: 12_3 in an array
        job_name: str  # the one that its user gave it
        event: str
        path: NotRequired[str]  # of the checkpoint
        local: NotRequired[str]  # where it is on its node until it is copied there; empty if it was written there
        bytes: NotRequired[int]
        reason: NotRequired[str]
        runs_on: NotRequired[bool]  # whether the processes went on after the checkpoint
        seconds: NotRequired[float]
        frozen: NotRequired[float]  # seconds
        at: NotRequired[float]  # when the processes froze
        waited: NotRequired[float]  # seconds, for its turn (task/pace.py)
        log: NotRequired[str]  # the file with what was kept of a refused checkpoint, if anything
        status: NotRequired[int]
        state: NotRequired[str]  # Slurm's word for the job's end
        output: NotRequired[str]  # the file of the batch script's output; empty if it is not known
        to: NotRequired[str]  # the node to which the job has migrated
        required: NotRequired[str]  # the nodes that the job had to run on before that
        counted: NotRequired[str]  # whether Slurm counts that it was preempted, "yes" or "no" (slurm/grace.py)


DIRECTORY = "history"
SUFFIX = ".jsonl"
KEPT_SECONDS = 90 * 86400  # of a job that Slurm no longer knows; `ckpt prune` removes older ones
FLAGS = os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_WRONLY
BEGINNINGS = ("started", "restored")  # of a run
NUMBER = (int, float)
# What the events of earlier versions lack.
LATER = {**dict.fromkeys(("name", "job_name", "log", "counted", "output"), ""), "waited": 0, "local": ""}
LARGEST = 1 << 60  # no number in a history is larger, nor is any below 0
LATEST = 1 << 37  # seconds; what time.gmtime() and pictures can show
# The facts of each event and their types. `refused` is a checkpoint that was not restored: another one follows, or
# `fell-back`, a start from the beginning. `failed` is a run that could not begin, `checkpoint-late` a checkpoint that
# was not done shortly before the job's end. `copied` is one that was on its node alone before, `not-copied` one that
# still is. `job-ended` is the end of the job as Slurm has it, `at` that time: noted by whoever asked, perhaps later.
EVENTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "started": {"output": str},
    "checkpointed": {
        **{"path": str, "bytes": int, "reason": str, "runs_on": bool},
        **{"seconds": NUMBER, "frozen": NUMBER, "at": NUMBER, "waited": NUMBER, "local": str},
    },
    "checkpoint-failed": {"reason": str},
    "copied": {"path": str, "seconds": NUMBER},
    "not-copied": {"reason": str},
    "checkpoint-late": {"reason": str},
    "hook-failed": {"reason": str},
    "migrated": {"to": str, "required": str},
    "requeued": {"counted": str},
    "not-requeued": {"reason": str},
    "restored": {"path": str, "seconds": NUMBER, "output": str},
    "refused": {"reason": str, "log": str},
    "fell-back": {"reason": str},
    "failed": {"reason": str},
    "ended": {"status": int},
    "job-ended": {"state": str, "at": NUMBER},
}


class History(log.Log):
    """A log that also writes the history of `task`, whose checkpoints are kept below `directory`."""

    def __init__(self, other: log.Log, directory: str, task: Task) -> None:
        super().__init__(other.path, other.form, other.verbose)
        self.file = os.path.join(directory, DIRECTORY, task.key + SUFFIX)
        self.store = os.path.join(directory, task.key)
        self.about = {"restarts": task.restarts, "name": task.name, "job_name": task.job_name}

    def note(self, kind: str, **facts: object) -> None:
        """Add an event. If that fails, the job loses nothing else by it.

        A checkpoint in memory, by which the job migrates, is noted by the path that it will be copied to.
        """
        path = str(facts.get("path"))
        number = os.path.basename(path)
        if number.isdecimal():
            from oci_criu_shim.transfer import received

            facts["seq"] = int(number)  # for other readers; ours has the path
            if received.holds(path):
                facts["path"] = os.path.join(self.store, number)
        if kind in BEGINNINGS:
            facts["output"] = _output()
        try:
            _append(self.file, {**self.about, "event": kind, **facts})
        except OSError as error:
            self.debug(f"no history of this: {error}")

    def keep(self, name: str, data: bytes) -> str:
        """Keep `data` beside the history, in a file whose name ends in `name`; return its path, "" if that fails."""
        path = f"{self.file.removesuffix(SUFFIX)}.{self.about['restarts']}.{name}"
        try:
            files.make_directories(os.path.dirname(path))
            files.write_atomically(path, data)
        except OSError as error:
            self.debug(f"{path} cannot be kept: {error}")
            return ""
        return path


def _output() -> str:
    """Return the path of the file that the user is told things in, the batch script's output; empty if it is none."""
    try:
        found = os.fstat(2)
        return os.readlink("/proc/self/fd/2") if stat.S_ISREG(found.st_mode) and found.st_nlink else ""
    except OSError:
        return ""


def _append(path: str, event: Mapping[str, object]) -> None:
    """Append an event of now in one write, so that no two lines mix."""
    line = files.to_json({"time": time.time(), "node": os.uname().nodename, **event}).encode() + b"\n"
    try:
        descriptor = os.open(path, FLAGS, 0o600)
    except FileNotFoundError:
        files.make_directories(os.path.dirname(path))
        descriptor = os.open(path, FLAGS, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def note_end(directory: str, job: int, found: Job) -> None:
    """Note in the histories of a job's tasks how and when the job has ended, as Slurm says in `found`."""
    facts = {"restarts": found.restarts, "state": found.ended_as, "at": found.fields["end_time"]}
    for key, events in read(directory, job).items():
        _note(directory, f"{job}/{key}", {**_about(events[-1]), "event": "job-ended", **facts})


def note_copy(store: str, kind: str, **facts: object) -> None:
    """Note in the history of the task with the directory `store` what came of the copy of a checkpoint to it."""
    job, key = os.path.split(store)
    directory, number = os.path.split(job)
    if events := read(directory, int(number)).get(key):
        about = {**_about(events[-1]), "restarts": events[-1]["restarts"]}
        _note(directory, f"{number}/{key}", {**about, "event": kind, **facts})


def _about(event: Event) -> dict[str, object]:
    return {"name": event["name"], "job_name": event["job_name"]}


def _note(directory: str, task: str, event: Mapping[str, object]) -> None:
    try:
        _append(os.path.join(directory, DIRECTORY, task + SUFFIX), event)
    except OSError:
        pass  # who notes the end of a job asks once more, next time


def prune(directory: str, known: set[int], dry_run: bool) -> list[str]:
    """Remove the old histories of the caller's jobs that are not in `known`; return their paths."""
    limit = time.time() - KEPT_SECONDS
    old = [path for job, path in _jobs(directory) if job not in known and _newest(path) < limit]
    if not dry_run:
        for path in old:
            files.remove_tree(path)
    return old


def jobs(directory: str) -> list[int]:
    """Return the caller's jobs that have a history below a checkpoint `directory`."""
    return sorted(job for job, _ in _jobs(directory))


def _jobs(directory: str) -> list[tuple[int, str]]:
    try:
        with os.scandir(os.path.join(directory, DIRECTORY)) as entries:
            return [
                (int(entry.name), entry.path)
                for entry in entries
                if entry.name.isdecimal()
                and entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            ]
    except OSError:
        return []  # there is none, or it is somebody else's


def others(directory: str) -> set[int]:
    """Return the uids of the other users who have histories below a checkpoint `directory`."""
    path = os.path.join(directory, DIRECTORY)
    try:
        with os.scandir(path) as entries:
            found = {entry.stat(follow_symlinks=False).st_uid for entry in entries if entry.name.isdecimal()}
    except PermissionError:
        found = {os.lstat(path).st_uid}
    except FileNotFoundError:
        return set()
    return found - {os.geteuid()}


def _newest(path: str) -> float:
    try:
        with os.scandir(path) as entries:
            return max((entry.stat(follow_symlinks=False).st_mtime for entry in entries), default=0)
    except OSError:
        return time.time()  # it is being removed, or written


def has_anything(directory: str, job: int) -> bool:
    """Return whether a job has checkpoints or a history below a checkpoint `directory`."""
    return any(os.path.lexists(os.path.join(directory, place, str(job))) for place in ("", DIRECTORY))


def logs(directory: str, job: int) -> list[str]:
    """Return the paths of CRIU's logs of a job's checkpoints that were refused, the oldest first."""
    path = os.path.join(directory, DIRECTORY, str(job))
    try:
        found = [entry for entry in os.scandir(path) if entry.name.endswith(".log")]
        return [entry.path for entry in sorted(found, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime)]
    except OSError:
        return []


def owner(directory: str, job: int) -> int:
    """Return the owner of a job's history; raise OSError if there is none, or it can't be seen."""
    return os.lstat(os.path.join(directory, DIRECTORY, str(job))).st_uid


def job_named(directory: str, name: str) -> int | None:
    """Return the caller's newest job of that `name`, 12_3 of an array; None if none has a history."""
    for job in reversed(jobs(directory)):
        if any(event["name"] == name for events in read(directory, job).values() for event in events):
            return job
    return None


def read(directory: str, job: int) -> dict[str, list[Event]]:
    """Return {`<step>.<task>`: its events in order} of a job of the caller's; empty if it has no history."""
    path = os.path.join(directory, DIRECTORY, str(job))
    try:
        own = owner(directory, job) == os.geteuid()
        names = sorted(name for name in os.listdir(path) if own and name.endswith(SUFFIX))
    except OSError:
        return {}
    found = {name.removesuffix(SUFFIX): _events(os.path.join(path, name)) for name in names}
    return {key: events for key, events in found.items() if events}


def _events(path: str) -> list[Event]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8", errors="replace") as stream:
            return [event for line in stream if (event := _event(line))]
    except OSError:
        return []  # not a file, or another user's


def _event(line: str) -> Event | None:
    """Return the event in a line, the last one if an unfinished line stands before it; None if there is none."""
    try:
        event = {**LATER, **files.parse_json(line[max(line.rfind('{"time"'), 0) :])}
        types = {"time": NUMBER, "node": str, "restarts": int, "name": str, "job_name": str, **EVENTS[event["event"]]}
        facts = {name: event[name] for name in types}
        fits = facts["time"] < LATEST and facts.get("at", 0) < LATEST
    except (ValueError, KeyError, TypeError):
        return None
    if not fits or not all(isinstance(facts[name], kind) for name, kind in types.items()):
        return None
    if not all(isinstance(value, str) or 0 <= value < LARGEST for value in facts.values()):
        return None
    shown = {name: _printable(value) if isinstance(value, str) else value for name, value in facts.items()}
    checked: Any = {"event": event["event"], **shown}
    return checked  # type: ignore[no-any-return]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
