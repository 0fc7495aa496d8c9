"""Note where a job keeps its checkpoints, if that is a directory of its own, so that nobody need name it again.

The notes are links in the user's home directory, which only programs of that user read:

    ~/.local/state/oci-criu-shim/.jobs/<job>@<cluster>           leads to the checkpoint directory
                                      /<array>_<task>@<cluster>  leads to the link above, of the same job
"""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.task import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task

PLACE = ".local/state/oci-criu-shim/.jobs"
NAME = r"(?P<job>\d+)(?:_\d+)?@(?P<cluster>[^@/]*)(?<!\.tmp)"
MOST = 4096  # links that are kept
MAKING_SECONDS = 3600  # more than it takes to make one


def note(task: Task, directory: str | None, log: Log) -> None:
    """Note that the task's job keeps its checkpoints in `directory`; None is the site's, which needs no note.

    The job loses nothing else if that fails.
    """
    cluster = f"@{task.cluster.replace('/', '_')}"
    wanted = {f"{task.job}{cluster}": directory}
    if task.name != str(task.job):
        wanted[f"{task.name}{cluster}"] = f"{task.job}{cluster}" if directory else None
    try:
        for name, target in wanted.items():
            path = os.path.join(place(), name)
            if target is None:
                files.remove_if_there(path)
            elif _target(path) != target:
                files.make_directories(os.path.dirname(path))
                files.link_atomically(target, path)
    except OSError as error:
        log.debug(f"the directory of job {task.name} is not noted: {error}")


def find(name: str) -> list[tuple[str, int, str]]:
    """Return the (cluster, job, checkpoint directory) that are noted of jobs called `name`, 12 or 12_3."""
    noted = [note for note in _names() if note.partition("@")[0] == name]
    return [found for note in noted if (found := _follow(note))]


def directories() -> list[str]:
    """Return all checkpoint directories that are noted, without repetition."""
    return sorted({found[2] for note in _names() if (found := _follow(note))})


def sweep() -> None:
    """Remove notes of jobs that have left nothing where they lead, and all but the newest MOST."""
    noted = sorted(_names(), key=_time, reverse=True)
    for number, name in enumerate(noted):
        if number >= MOST or _is_stale(name):
            files.remove_if_there(os.path.join(place(), name))


def place() -> str:
    """Return the directory of the notes; FileNotFoundError if the user has no home.

    $HOME does not tell: that of a job may be slurmd's.
    """
    import pwd

    try:
        return os.path.join(pwd.getpwuid(os.geteuid()).pw_dir, PLACE)
    except KeyError:
        raise FileNotFoundError(f"user {os.geteuid()} has no home directory") from None


def _names() -> list[str]:
    try:
        return os.listdir(place())
    except OSError:
        return []  # nothing is noted


def _target(path: str) -> str:
    """Return where a link leads; empty if there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _follow(name: str) -> tuple[str, int, str] | None:
    """Return the (cluster, job, directory) of a note; None if it is none, or leads nowhere."""
    import re  # it takes long to import, and a start needs none

    target = _target(os.path.join(place(), name))
    if target and not target.startswith("/"):
        name, target = target, _target(os.path.join(place(), target))
    found = re.fullmatch(NAME, name)
    return (found["cluster"], int(found["job"]), target) if found and target.startswith("/") else None


def _time(name: str) -> float:
    try:
        return os.lstat(os.path.join(place(), name)).st_mtime
    except OSError:
        return 0.0  # it was removed meanwhile


def _is_stale(name: str) -> bool:
    """Whether a note leads nowhere. A directory that is not on this node may be on another one."""
    found, age = _follow(name), time.time() - _time(name)
    if found is None:
        return age > MAKING_SECONDS
    _, job, directory = found
    return not history.has_anything(directory, job) if os.path.isdir(directory) else age > history.KEPT_SECONDS
