"""Find checkpoints by what operands name, and the jobs that they are of."""

from __future__ import annotations

import os
import re

from oci_criu_shim import files
from oci_criu_shim.checkpoints import committed, owner
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.cli import directories
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.ckpt.documents import Owner
    from oci_criu_shim.cli.invocation import Invocation

LARGEST_SPEC = 16 << 20  # bytes of config.json
LIST = "`oci-criu-shim ckpt list` shows them"
JOB = re.compile(r"(?P<job>\d+(?:[_+]\d+)?)(?::(?P<seq>\d+)|(?P<rest>(?:/[^/]+)*))/*")
SHOWN = 8  # tasks in a message


class Label:
    """The task that a checkpoint is of; `job` is 0 and the others are empty if it is no job's."""

    def __init__(self, job: int = 0, step: str = "", task: str = "") -> None:
        self.job = job
        self.step = step
        self.task = task

    def fields(self) -> Owner:
        """Return it for JSON."""
        return {"job": self.job or None, "step": self.step or None, "task": int(self.task) if self.task else None}


def directories_of(call: Invocation) -> list[str]:
    """Return the directories that a verb's first operand names, [JOBID|DIR]: a job's, or else all that are known."""
    word, given = call.operand(0), call.value("checkpoint-dir")
    if word is None:
        return directories.all_of(given)
    named = JOB.fullmatch(word)
    return [_root(named, given) + named["rest"]] if named and not named["seq"] else [directories.require(word)]


def named(call: Invocation) -> list[str]:
    """Return what a verb's first operand names, [JOBID[:SEQ]|DIR]: directories as above, or checkpoints."""
    word = call.operand(0)
    one = JOB.fullmatch(word or "")
    return _of_job(one, call.value("checkpoint-dir")) if one and one["seq"] else directories_of(call)


def _root(named: re.Match[str], given: str | None) -> str:
    """Return the directory of the job that an operand names: in the current directory, if checkpoints are below."""
    here = os.path.abspath(named["job"])
    if not given and find(here):
        return here
    directory, job = directories.of_job(named["job"], given)
    return os.path.join(directory, str(job))


def find(directory: str, depth: int = owner.DEPTH, closed: list[str] | None = None) -> list[str]:
    """Return the paths of the committed checkpoints in `directory`, damaged or not; a task's oldest first.

    Add the directories that the caller may not look into to `closed`.
    """
    if is_one(directory):
        return [directory]
    if not depth:
        return []
    try:
        names = [name for name in os.listdir(directory) if not name.startswith(".")]
    except PermissionError:
        if closed is not None:
            closed.append(directory)
        return []
    except OSError:
        return []  # it was removed meanwhile
    return [
        path
        for name in sorted(names, key=lambda name: (not name.isdecimal(), name.zfill(20)))
        if os.path.isdir(inner := os.path.join(directory, name))
        for path in find(inner, depth - 1, closed)
    ]


def owner_of(path: str) -> str:
    """Return the name of the user whom a directory belongs to; empty if it was removed meanwhile."""
    try:
        return process.user_name(os.lstat(path).st_uid)
    except FileNotFoundError:
        return ""


def is_one(path: str) -> bool:
    """Return whether `path` is a committed checkpoint, or was one before it was damaged."""
    inside = (committed.MANIFEST, committed.IMAGES)
    return os.path.basename(path).isdecimal() and any(os.path.lexists(os.path.join(path, name)) for name in inside)


def paths_of(word: str, given: str | None) -> list[str]:
    """Return the paths of the checkpoints that an operand names, JOBID[:SEQ]|PATH; there is at least one.

    JOBID may be followed by the rest of a path in the job's directory. Other paths are looked for in the `given`
    directory, too, or in those that are known.
    """
    path, named = os.path.abspath(word), JOB.fullmatch(word)
    if named and not is_one(path):
        return _of_job(named, given)
    _require_visible(path)
    below = [os.path.normpath(os.path.join(place, word)) for place in directories.all_of(given)]
    found = [path for path in (path, *below) if is_one(path)]
    if not found:
        raise ShimError(f"{word} is no checkpoint", LIST)
    return found[:1]


def below(word: str, given: str | None) -> list[str]:
    """Return the paths of the checkpoints that an operand names, as paths_of() does, or that are in a directory."""
    found = find(os.path.abspath(word)) if os.path.isdir(word) else []
    return found or paths_of(word, given)


def _of_job(named: re.Match[str], given: str | None) -> list[str]:
    place, number = _root(named, given) + (named["rest"] or ""), named["seq"]
    found = [path for path in find(place) if number in (None, os.path.basename(path))]
    if not found:
        what = f"checkpoint {number}" if number else "checkpoint"
        raise ShimError(f"there is no {what} in {place}", LIST)
    return found


def path_of(word: str, given: str | None) -> str:
    """Return the path of the checkpoint that an operand names: of a task's, the newest. Raise ShimError if it names
    several tasks."""
    found = paths_of(word, given)
    tasks = {os.path.dirname(path): path for path in found}
    if len(tasks) > 1:
        whole = ":" in word
        names = ["/".join((path if whole else task).split("/")[-3 if whole else -2 :]) for task, path in tasks.items()]
        shown = ", ".join([*names[:SHOWN], *["…"] * (len(names) > SHOWN)])
        raise ShimError(f"{word} may be of several tasks", f"name one of them: {shown}")
    return found[-1]


def _require_visible(path: str) -> None:
    try:
        os.lstat(os.path.join(path, committed.MANIFEST))
    except PermissionError as error:
        raise ShimError(f"{path}: {error.strerror}", committed.OWNERS) from None
    except OSError:
        pass


def checkpoint(word: str, given: str | None) -> Checkpoint:
    """Return the checkpoint that an operand names, its manifest read; raise ShimError if it is damaged."""
    return committed.read(path_of(word, given))


def label(path: str) -> Label:
    """Return the task of a checkpoint: as its path says, else as its config.json says."""
    key = re.fullmatch(owner.CHECKPOINT, path)
    if key:
        return Label(int(key["job"]), key["step"], key["task"])
    try:
        spec = files.parse_json(files.read_regular(os.path.join(path, committed.SPEC), LARGEST_SPEC).decode())
        task = tasks.of(dict(entry.partition("=")[::2] for entry in spec["process"]["env"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, ShimError):
        return Label()
    return Label(task.job, task.step_name, str(task.rank)) if task else Label()
