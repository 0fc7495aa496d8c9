"""Tell whose a checkpoint is, by its place: a checkpoint directory is a user's, `<job>` in it a cluster's, and
`<step>.<task>` in that a task's.

Clusters that share a file system number their jobs alike. None may restore, count or remove checkpoints of another.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

NAME = "cluster"  # in a job's directory
DEPTH = 3  # of a checkpoint, `<job>/<step>.<task>/<seq>`, below its checkpoint directory
CHECKPOINT = r".*/(?P<job>\d+)/(?P<step>batch|\d+)\.(?P<task>\d+)/\d+"  # its path


HINT = "name a directory of yours on a shared file system with --checkpoint-dir"


def make(directory: str, parents: bool) -> None:
    """Make a checkpoint directory if it is missing, and with `parents` the directories above it.

    Raise ShimError if it can't be made; check() says why one is not there.
    """
    try:
        os.makedirs(directory, mode=0o700) if parents else os.mkdir(directory, 0o700)
    except (FileExistsError, FileNotFoundError):
        pass
    except OSError as error:
        if not os.path.lexists(directory):
            raise ShimError(f"checkpoint directory {directory} can't be made: {error.strerror}", HINT) from None


def check(directory: str) -> None:
    """Raise ShimError unless `directory` is one that the caller may keep checkpoints in."""
    try:
        status = os.stat(directory)
    except FileNotFoundError as error:
        import shlex

        hint = f"`mkdir -p {shlex.quote(directory)}`, if all nodes share that; or {HINT}"
        raise ShimError(f"checkpoint directory {directory}: {error.strerror}", hint) from None
    except OSError as error:
        raise ShimError(f"checkpoint directory {directory}: {error.strerror}", HINT) from None
    if not os.path.isdir(directory):
        raise ShimError(f"checkpoint directory {directory} is not a directory", HINT)
    if status.st_uid != os.geteuid():
        raise ShimError(f"checkpoint directory {directory} belongs to user {process.user_name(status.st_uid)}", HINT)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ShimError(f"checkpoint directory {directory} is not writable", HINT)


def cluster_of(job: str) -> str:
    """Return the cluster that a job's directory belongs to; "" if that is not known."""
    try:
        with open(os.path.join(job, NAME), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def claim(job: str, cluster: str) -> None:
    """Make a job's directory one of `cluster`; raise ShimError if it belongs to another cluster."""
    other = cluster_of(job)
    if other not in ("", cluster):
        raise ShimError(
            f"{job} has checkpoints of a job of that number of cluster {other!r}, and this is {cluster!r}",
            "name another --checkpoint-dir, or remove it if that job has ended",
        )
    if not other:
        files.make_directories(job)
        files.write_atomically(os.path.join(job, NAME), cluster.encode())


def release(job: str) -> None:
    """Remove a job's directory if nothing is left of its tasks."""
    try:
        if os.listdir(job) == [NAME]:
            os.unlink(os.path.join(job, NAME))
        os.rmdir(job)
    except OSError:
        pass  # other tasks of the job have checkpoints there


def task_directories(directory: str) -> list[str]:
    """Return the directories `<job>/<step>.<task>` below `directory`, which may be a job's or a task's itself."""
    found = []
    for path, names, _ in os.walk(directory):
        if _of_task(path):
            found.append(path)
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
        if path.removeprefix(directory).count("/") >= DEPTH - 1:
            names.clear()
    return found


def job_of(task: str) -> int:
    """Return the number of the job that a task's directory belongs to; 0 if it is no task's."""
    found = _of_task(task)
    return int(found["job"]) if found else 0


def _of_task(path: str) -> re.Match[str] | None:
    import re  # it takes long to import, and a start needs none

    return re.fullmatch(CHECKPOINT, f"{path}/0")
