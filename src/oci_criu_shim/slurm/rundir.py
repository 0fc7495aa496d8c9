"""Name the files of a job's run directory on a node, where the job's programs meet."""

from __future__ import annotations

import fcntl
import os

from oci_criu_shim import files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO

    from oci_criu_shim.slurm.tasks import Task

# Names that spank/ has, too (paths.h, rundir.c).
REQUEUED = "requeued"  # the job starts again: its epilog makes it eligible at once, with the settings in it, one a line
SIGNALLED = "signalled"  # the watcher was sent a signal
ENDED = "ended"  # the batch script has ended, and the job with it: the watcher has nothing more to do
KEPT = "kept."  # with a number: links to what the job keeps, which goes with the job
LOCAL = "local."  # with a number: links to checkpoints that the epilog is to copy (`ckpt drain`)
RECEIVED = "received."  # with a number: links to what it has received for another job, which goes soon after it

TIME_IS_UP = ".timeout"  # one of its containers must go before the time limit, so all of them
DESTINATION = ".destination"  # has the name of the node on which the job is to go on
REQUEUEING = ".requeueing"  # somebody was the last to be ready, and has the job requeued
LOCK = ".lock"


def require_no_jobs(path: str) -> None:
    """Raise ShimError if `path`, where nothing can be written, is a job's run directory."""
    directory, job = os.path.split(path)
    if directory == RUN_DIRECTORY and job.isdecimal():
        said = f"slurmd on {os.uname().nodename} had not loaded the plugin when job {job} began"
        hint = "the site runs `scontrol reconfigure`, then submit the job again; `oci-criu-shim doctor` says more"
        raise ShimError(f"{said}: there is no {path} that you can write", hint)


class RunDirectory:
    """The directory `path`, which is the root directory of the job's containers as well."""

    def __init__(self, path: str) -> None:
        self.path = path

    def file(self, name: str) -> str:
        """Return the path of one of the names above."""
        return os.path.join(self.path, name)

    def helper_socket(self, task: Task) -> str:
        """Return where the SPANK plugin's privileged helper of a task's step listens."""
        return self.file(f"helper.{task.step}.sock")

    def proxy_socket(self, task: Task) -> str:
        """Return where a task's proxy listens while Slurm is about to create and start its container."""
        return self.file(f"task.{task.step}.{task.local}.sock")

    @property
    def was_signalled(self) -> bool:
        """Whether the job was sent a signal, SIGTERM or one of its own: it may have to go."""
        return os.path.exists(self.file(SIGNALLED))

    @property
    def time_is_up(self) -> bool:
        """Whether all of the job's containers must go before its time limit."""
        return os.path.exists(self.file(TIME_IS_UP))

    def note_time_is_up(self) -> None:
        """Have all of the job's containers go."""
        with open(self.file(TIME_IS_UP), "w", encoding="ascii"):
            pass

    @property
    def destination(self) -> str:
        """The node on which the job is to go on; empty if that may be any."""
        try:
            with open(self.file(DESTINATION), encoding="utf-8") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""

    def note_destination(self, node: str) -> None:
        """Have the job go on on `node` alone."""
        files.write_atomically(self.file(DESTINATION), node.encode())

    def note_end(self) -> None:
        """Tell the watcher that the job has ended."""
        os.close(os.open(self.file(ENDED), os.O_CREAT | os.O_WRONLY, 0o600))

    def forget_destination(self) -> None:
        """Have the job go on wherever it may."""
        files.remove_if_there(self.file(DESTINATION))

    def keep(self, path: str) -> None:
        """Have the job's epilog know of the directory `path`, to be removed with the job."""
        self._link(KEPT, path)

    def note_received(self, path: str) -> None:
        """Have the job's epilog know of the directory `path`, to be removed if nobody takes it over."""
        self._link(RECEIVED, path)

    def note_local(self, path: str) -> None:
        """Have the job's epilog know of the directory `path`, to copy the checkpoint in it to the job's others. Raise
        OSError if that can't be noted."""
        os.symlink(path, self.file(f"{LOCAL}{os.stat(path).st_ino}"))

    def _link(self, kind: str, path: str) -> None:
        try:
            os.symlink(path, self.file(f"{kind}{os.stat(path).st_ino}"))
        except OSError:
            pass  # another of the job's steps has done so

    def lock(self) -> IO[str]:
        """Return a lock that only one process of the job on this node has, until it is closed."""
        lock = open(self.file(LOCK), "w", encoding="ascii")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def is_first_to_requeue(self) -> bool:
        """Whether nobody has had the job requeued yet; from now on somebody has."""
        try:
            os.close(os.open(self.file(REQUEUEING), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @property
    def is_requeued(self) -> bool:
        """Whether the job's epilog knows already that it starts again."""
        return os.path.exists(self.file(REQUEUED))

    def note_requeued(self, settings: Iterable[str]) -> None:
        """Tell the job's epilog what scontrol is to be told of the job, a setting a line."""
        files.write_atomically(self.file(REQUEUED), "".join(f"{line}\n" for line in settings).encode())
