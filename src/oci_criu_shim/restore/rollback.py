"""Cut files that a container has open for writing back to their lengths at the checkpoint.

A container that runs on after its checkpoint goes on writing. If its job later goes on from that checkpoint, it writes
the same data once more. So the part after the checkpoint is cut off such files before they are opened again, and kept.
CRIU itself refuses files that have grown, except those that are open for appending only, which it takes as they are.
"""

from __future__ import annotations

import os
import stat

from oci_criu_shim import files
from oci_criu_shim.checkpoints import store
from oci_criu_shim.checkpoints.quota import CUT
from oci_criu_shim.errors import ShimError, line_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.manifest import Written
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task


class Grown:
    """A file that is longer than at the checkpoint: `name` below the directory `base`, or without a name, `base`."""

    def __init__(self, base: str, row: Written) -> None:
        self.base = base
        self.name: str = row["name"]
        self.inside = os.path.join(row["mount"], self.name).rstrip("/")
        self.size: int = row["size"]
        self.row = row

    @property
    def path(self) -> str:
        """Its path on the node."""
        return os.path.join(self.base, self.name) if self.name else self.base

    def is_longer(self) -> bool:
        """Whether it is still our own file, and longer. CRIU refuses a file that is shorter or gone, and names it."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return False
        return status.st_size > self.size and stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()

    def open(self) -> int:
        """Return a descriptor for reading and writing. Raise OSError if a symbolic link is on the way."""
        if not self.name:
            return os.open(self.base, os.O_RDWR | os.O_NONBLOCK)
        *directories, name = self.name.split("/")
        here = os.open(self.base, os.O_PATH | os.O_DIRECTORY)
        try:
            for directory in directories:
                inner = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = inner
            return os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)

    def cut(self, directory: str) -> str:
        """Cut it back to its length at the checkpoint; return the path below `directory` of the part cut off.

        That part is on disk before the file is cut.
        """
        descriptor = self.open()
        try:
            kept = _keep(descriptor, self.size, directory, os.path.basename(self.inside))
            os.ftruncate(descriptor, self.size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return kept


def _keep(descriptor: int, begin: int, directory: str, name: str) -> str:
    """Copy the part after `begin` to a new file in `directory`, which is made if missing; return the new path."""
    files.make_directories(directory)
    path = os.path.join(directory, f"{len(os.listdir(directory)) + 1}-{name[:200]}")
    copy = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while sent := os.sendfile(copy, descriptor, begin, 1 << 30):
            begin += sent
        os.fsync(copy)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(copy)
    files.sync(directory)
    return path


class Rollback:
    """The files to cut before `checkpoint` runs again; false if there are none.

    The parts cut off are kept in `directory`. `bases` has the sources of the container's mounts, as paths on this node
    by their mount points.
    """

    def __init__(self, checkpoint: Checkpoint, directory: str, bases: Mapping[str, str], log: Log) -> None:
        self.directory = directory
        self.log = log
        rows = checkpoint.manifest.get("written", [])
        found = [Grown(bases[row["mount"]], row) for row in rows if row["mount"] in bases]
        self.grown = [file for file in found if file.is_longer()]

    def __bool__(self) -> bool:
        return bool(self.grown)

    def run(self) -> None:
        """Cut them back, and log it. Raise ShimError if that fails for one, which is then as it was."""
        others = list(_others(os.path.dirname(self.directory)))
        for file in filter(Grown.is_longer, self.grown):  # unless it was replaced meanwhile
            if file.row.get("others") or _is_shared(file.row, others):
                self.log.event(
                    f"{file.inside} is longer than at the checkpoint, and others write it too: nothing is cut off, so "
                    "this task writes once more what it wrote after the checkpoint"
                )
                continue
            length = f"its length at the checkpoint ({file.size} bytes)"
            try:
                kept = file.cut(self.directory)
            except OSError as error:
                hint = f"make room for what is cut off, in {self.directory}, or have the site set rollback = false"
                raise ShimError(f"{file.inside} cannot go back to {length}: {line_of(error)}", hint) from None
            self.log.event(f"{file.inside} goes back to {length}; what came after it is kept in {kept}")


def _is_shared(row: Written, others: list[tuple[int, Written]]) -> bool:
    """Whether one of the `others` is the same file, and of a job that has not ended; 0 is our own job."""
    name = row["mount"], row["name"]
    jobs = {job for job, r in others if r["inode"] == row["inode"] or (r["mount"], r["name"]) == name}
    if not jobs or 0 in jobs:
        return bool(jobs)
    from oci_criu_shim.slurm import controller

    try:
        return not jobs.isdisjoint(controller.known_jobs(ended=False))
    except ShimError:
        return True  # it may still run


def _others(own: str) -> Iterator[tuple[int, Written]]:
    """Yield (job, row of `written`) from the newest checkpoint of each other task in the checkpoint directory.

    Our own task's checkpoints are in `own`. The job is 0 for another task of our own job.
    """
    top, own_job = os.path.split(os.path.dirname(own))
    for job in filter(str.isdecimal, os.listdir(top)):
        for task in _entries(os.path.join(top, job)):
            path = os.path.join(top, job, task)
            try:
                newest = store.newest(path) if path != own else None
            except (ShimError, OSError):
                continue  # it can't be read
            for row in newest.manifest.get("written", []) if newest else []:
                yield 0 if job == own_job else int(job), row


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []  # the job's last task has ended meanwhile, or it is not a job's directory


def place(checkpoint: Checkpoint, task: Task) -> str | None:
    """Return the directory for the parts that are cut off; None if nothing is to be cut.

    Nothing is cut if the checkpoint is another task's, which may be running; or if it ended the container, which has
    not run since, so that somebody else made its files longer.
    """
    own = os.path.dirname(checkpoint.path)
    if not f"{own}/".endswith(f"/{task.key}/"):
        return None
    manifest = checkpoint.manifest
    ran_on = manifest.get("left_running") or task.restarts > manifest.get("restarts", task.restarts) + 1
    return os.path.join(own, CUT) if ran_on else None
