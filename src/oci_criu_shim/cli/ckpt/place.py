"""Find checkpoints by what operands name, and the jobs that they are of."""

from __future__ import annotations

import os

from oci_criu_shim import config, files
from oci_criu_shim.checkpoints import committed, owner
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.ckpt.documents import Owner

LARGEST_SPEC = 16 << 20  # bytes of config.json
LIST = "oci-criu-shim ckpt list shows them"


class Label:
    """The task that a checkpoint is of; `job` is 0 and the others are empty if it is no job's."""

    def __init__(self, job: int = 0, step: str = "", task: str = "") -> None:
        self.job = job
        self.step = step
        self.task = task

    def fields(self) -> Owner:
        """Return it for JSON."""
        return {"job": self.job or None, "step": self.step or None, "task": int(self.task) if self.task else None}


def directory(word: str | None) -> str:
    """Return the directory that an operand names, or the site's; raise ShimError if it is not there."""
    path = os.path.abspath(word or config.load().checkpoint_dir)
    try:
        os.scandir(path).close()
    except PermissionError as error:
        raise ShimError(f"{path}: {error.strerror}", committed.OWNERS) from None
    except OSError:
        raise ShimError(f"{path} is not a directory", "name the one that --checkpoint-dir named") from None
    return path


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


def path_of(word: str) -> str:
    """Return the path of the checkpoint that an operand names: itself, or below the site's directory."""
    path = os.path.abspath(word)
    if not is_one(path):
        _require_visible(path)
        path = os.path.join(os.path.abspath(config.load().checkpoint_dir), word.strip("/"))
    if not is_one(path):
        raise ShimError(f"{word} is no checkpoint", LIST)
    return os.path.normpath(path)


def _require_visible(path: str) -> None:
    try:
        os.lstat(os.path.join(path, committed.MANIFEST))
    except PermissionError as error:
        raise ShimError(f"{path}: {error.strerror}", committed.OWNERS) from None
    except OSError:
        pass


def paths_of(word: str) -> list[str]:
    """Return the path of the checkpoint that an operand names, or those in the directory that it names."""
    found = find(os.path.abspath(word)) if os.path.isdir(word) else []
    return found or [path_of(word)]


def checkpoint(word: str) -> Checkpoint:
    """Return the checkpoint that an operand names, its manifest read; raise ShimError if it is damaged."""
    return committed.read(path_of(word))


def label(path: str) -> Label:
    """Return the task of a checkpoint: as its path says, else as its config.json says."""
    key = owner.CHECKPOINT.fullmatch(path)
    if key:
        return Label(int(key["job"]), key["step"], key["task"])
    try:
        spec = files.parse_json(files.read_regular(os.path.join(path, committed.SPEC), LARGEST_SPEC).decode())
        task = tasks.of(dict(entry.partition("=")[::2] for entry in spec["process"]["env"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, ShimError):
        return Label()
    return Label(task.job, task.step_name, str(task.rank)) if task else Label()
