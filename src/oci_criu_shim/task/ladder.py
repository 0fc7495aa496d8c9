"""Choose where a restarted task goes on: at its newest checkpoint, an older one, or, if allowed, its beginning.

The site says whether it may start from its beginning. If it is the node that can't restore, the job goes to another.
"""

from __future__ import annotations

import os
import re
import time

from oci_criu_shim import files
from oci_criu_shim.checkpoints import committed, owner
from oci_criu_shim.checkpoints.store import REFUSED, Store
from oci_criu_shim.container.record import RESTORE_LOG
from oci_criu_shim.errors import Misfit, NotRestored, ShimError, line_of
from oci_criu_shim.host import process
from oci_criu_shim.task import arrival, history, pointers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NotRequired, TypedDict

    from oci_criu_shim.config import Settings
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task

    class Tried(TypedDict):
        """What tries.json has."""

        newest: int  # the number of the newest checkpoint; 0 without one
        tries: int
        failed: NotRequired[dict[str, str]]  # {node: why it went elsewhere from there}


TRIES = "tries.json"
MARK = "oci-criu-shim: "  # where our part of a job's comment begins
LONGEST = 300  # characters of our part
PAUSES = (0.5, 2, 8)  # seconds at most
# What CRIU says if another restore has the name of a deleted file, and if the kernel has no room just now for what a
# socket is to send. A file that may not be made will not be later.
PASSING = re.compile(
    r"ghost(?!.*(Permission denied|Operation not permitted|Read-only file system|No space left|Disk quota))"
    r"|Can't restore .* queue data"
)


class Ladder:
    """The checkpoints in `store` from which `task` may go on, and the messages if they fail.

    The caller tries the rungs() in their order, and notes of each its success or failure. If all failed, the caller
    tries to have the job go elsewhere; otherwise it requires a fresh start.
    """

    def __init__(self, container: Container, task: Task, store: Store, settings: Settings, log: Log) -> None:
        self.container = container
        self.task = task
        self.store = store
        self.settings = settings
        self.log = log
        self.what = task.describe()
        self.arrival = arrival.of(container, task.key, store, log)
        self.newest = self.arrival.checkpoint.seq if self.arrival else max(store.numbers(), default=0)
        self.tries = Tries(os.path.join(store.path, TRIES), self.newest)
        self.reasons: list[str] = []
        self.may_try_again = False  # the rung in hand, if its failure may pass
        self.tries_again = False
        self.may_do_elsewhere = False  # whether any rung failed otherwise than by its own fault
        self.home: str | None = None  # as of _go_elsewhere(): if nodes refuse a system call, this proves nothing

    def rungs(self) -> Iterator[str]:
        """Yield the paths of checkpoints to try. Raise ShimError if there were too many tries."""
        paths = self._paths()
        if paths:
            self._count()
        for path in paths:
            for pause in (*PAUSES, None):
                self.may_try_again, self.tries_again = pause is not None, False
                yield path
                if pause is None or not self.tries_again:
                    break
                time.sleep(pause * os.urandom(1)[0] / 255)
            self._keep_arrival()

    def note_failure(self, path: str, error: ShimError | OSError) -> bool:
        """Note that a rung failed; return whether the job has been requeued because another node may do better.

        CRIU makes open files that are deleted anew, for a moment, under names that are the same in each restore of a
        checkpoint (ghost_path() in criu/files-reg.c): other restores may do so in the same directory. If the node
        refuses a system call, an older checkpoint may not need it, and another node may not refuse it.
        """
        if isinstance(error, OSError):
            self.home = ""
            error = NotRestored(f"{path} could not be restored: {line_of(error)}")
        if isinstance(error, NotRestored) and PASSING.search(str(error)) and self.may_try_again:
            self.tries_again = True
        elif isinstance(error, Misfit):
            self._note(path, error)
            if error.home not in ("", self.task.node):
                return self._go_home(error.home)
            return self._go_elsewhere(_made_on(path))
        else:
            self._refuse(path, error)
            self.may_do_elsewhere |= isinstance(error, NotRestored)
        return False

    def try_elsewhere(self) -> bool:
        """Return whether, after all rungs, the job has been requeued to try them on another node."""
        return self.may_do_elsewhere and self._go_elsewhere(self.home)

    def _paths(self) -> list[str]:
        """Return the checkpoints to try, in order: the one in memory, the task's own, or while it has none, those of
        --restart-dir."""
        if self.arrival:
            return [self.arrival.path, *_newest_first(self.store.path)]
        if not self.newest and self.task.restart_dir:
            return sources(self.task.restart_dir, self.task, self.store.directory)
        return _newest_first(self.store.path)

    def _count(self) -> None:
        """Note this try. Raise ShimError if there were too many."""
        limit = self.settings.max_restarts
        if limit and self.tries.count >= limit:
            after = f"checkpoint {self.newest}" if self.newest else f"--restart-dir={self.task.restart_dir}"
            self._tell(f"failed: tried {self.tries.count} times from {after}")
            raise ShimError(
                f"{self.what} was tried {self.tries.count} times from {after} and got no further (max-restarts)",
                f"find out why; `rm {self.tries.path}; scontrol requeue {self.task.job}` tries it again",
            )
        try:
            self.tries.add()
        except OSError as error:
            self.log.error(f"this try of {self.what} is not counted: {line_of(error)}")

    def _note(self, path: str, error: ShimError, log: str = "") -> None:
        text = f"{self.what}: {error.line()}{f' (see {log})' if log else ''}"
        self.log.error(text, "refused", reason=error.line(), log=log)
        self.reasons.append(f"{os.path.basename(path)}: {str(error).replace(f'{path}/', '')}")

    def _refuse(self, path: str, error: ShimError) -> None:
        """Note why a checkpoint was refused, and keep CRIU's log, if there is one.

        It is kept with the checkpoint, unless that is another job's, and for longer with the history.
        """
        log = self.container.path(RESTORE_LOG)
        try:
            with open(log, "rb") as stream:
                said = stream.read()
            os.unlink(log)
        except FileNotFoundError:
            said = b""
        text = f"{files.timestamp()} {self.task.node}: {error.line()}\n".encode() + said
        if os.path.dirname(path) == self.store.path:
            try:
                files.write_atomically(os.path.join(path, REFUSED), text)
            except OSError as failure:
                self.log.debug(str(failure))
        self._note(path, error, self.log.keep(f"restore-{os.path.basename(path)}.log", text) if said else "")

    def note_success(self, path: str) -> None:
        """Note that the task was restored from a rung."""
        own = os.path.dirname(path) == self.store.path
        if own:
            files.remove_if_there(os.path.join(path, REFUSED))  # another node was to blame
        if self.arrival and path == self.arrival.path:
            self.arrival.keep_aside()
        if self.reasons or self.task.rank == 0:
            # Slurm may take its time; the container must not wait for it.
            process.fork(lambda: self._tell(f"restored from {os.path.basename(path) if own else path}"))

    def require_fresh_start(self) -> None:
        """Note that the task starts from its beginning. Raise ShimError if the site does not allow that."""
        if self.settings.fresh_start:
            reason = "no checkpoint could be restored" if self.reasons else "it has no checkpoint to go on from"
            self.log.event(f"{self.what} starts from its beginning: {reason}", "fell-back", reason=reason)
            self._tell("started from its beginning")
            return
        self._tell(f"failed: no checkpoint {'could be restored' if self.reasons else 'to go on from'}")
        if not self.newest and self.task.restart_dir:
            source = f"--restart-dir={self.task.restart_dir}"
            raise ShimError(f"{self.what} has nothing else in {source} to begin with", _list(self.store.directory))
        if self.reasons:
            raise ShimError(
                f"{self.what} could not be restored from any checkpoint in {self.store.path}, for the reasons above",
                f"they stay there: `scontrol requeue {self.task.job}` tries them again, or have the site set"
                " fresh-start = true in config.toml",
            )
        raise ShimError(
            f"{self.what} was restarted, and has no checkpoint in {self.store.path} to go on from",
            "resubmit it; with fresh-start = true in config.toml it would have begun again",
        )

    def _go_home(self, node: str) -> bool:
        """Have the job requeued to wait for `node`, which alone can restore it; return whether it was.

        That is no failed try.
        """
        from oci_criu_shim.task import requeue

        try:
            if not requeue.can_wait_for(self.task, node):
                self.log.event(f"job {self.task.job} can't be made to wait for {node}")
                return self._go_elsewhere(node)
        except ShimError as error:
            self.log.error(f"job {self.task.job} does not wait for {node}: {error.line()}")
            return False
        if self.tries.failed.get(self.task.node) != self._said():  # else Slurm did not do as it was told
            self.tries.take_back()
        self.tries.note_failure(self.task.node, self._said())
        return self._requeue(f"to go on on {node}, once it is free", f"waits for {node}", require=node)

    def _go_elsewhere(self, home: str | None) -> bool:
        """Have the job requeued to start on another node, if there is one; return whether it was.

        If another node failed alike, it is not the nodes' fault. A node that doesn't fit proves nothing, unless the
        checkpoint was made on one of the two, its `home`. That is None if CRIU itself failed on both.
        """
        from oci_criu_shim.task import requeue

        limit, task = self.settings.max_restarts, self.task
        if (other := self.tries.failed_alike(task.node, self._said())) and home in (None, task.node, other):
            self.log.event(f"{self.what} failed alike on {other}: another node would do no better")
            return False
        if limit and self.tries.count >= limit:
            self.log.event(f"{self.what} was tried {self.tries.count} times, which is max-restarts: on no other node")
            return False
        try:
            if not requeue.has_another_node(task):
                self.log.event(f"job {task.job} can go to no other node than {task.node}")
                return False
        except ShimError as error:
            return requeue.not_moved(task, self.log, error)
        self.tries.note_failure(task.node, self._said())
        return self._requeue(f"to go on on another node than {task.node}", f"requeued from {task.node}", task.node)

    def _requeue(self, why: str, outcome: str, exclude: str = "", require: str = "") -> bool:
        from oci_criu_shim.task import requeue

        self._keep_arrival()
        self._tell(outcome)
        return requeue.move(self.container.root, self.task, self.log, why, exclude, require)

    def _keep_arrival(self) -> None:
        """Move a checkpoint that could not be restored from this node's memory to where others find it, too."""
        if self.arrival:
            self.arrival.keep()
            self.arrival = None

    def _said(self) -> str:
        """Return why it could not be restored here, as it could be on any node."""
        return "; ".join(self.reasons)

    def _tell(self, outcome: str) -> int:
        """Put `outcome` and the reasons into the job's comment; return 0."""
        from oci_criu_shim.slurm import controller

        text = " ".join(": ".join([outcome, "; ".join(self.reasons)] if self.reasons else [outcome]).split())
        try:
            controller.remark(self.task.job, MARK, text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
        except ShimError as error:
            self.log.debug(f"job {self.task.job} got no comment: {error.line()}")
        return 0


def _made_on(path: str) -> str:
    """Return the node that a checkpoint was made on; empty if that isn't known."""
    try:
        return committed.read(path).manifest.get("node", "")
    except (ShimError, OSError):
        return ""


class Tries:
    """Counts the tries of a task since its `newest` checkpoint, in the file `path`."""

    def __init__(self, path: str, newest: int) -> None:
        self.path = path
        self.newest = newest
        self.count = 0
        self.failed: dict[str, str] = {}
        try:
            before: Tried = files.read_json(path)
            if before["newest"] == newest:
                self.count = int(before["tries"])
                self.failed = dict(before.get("failed", {}))
        except (OSError, ValueError, TypeError, KeyError):
            pass  # none yet, or not ours

    def add(self) -> None:
        """Count one more."""
        self.count += 1
        self.note(self.newest)

    def take_back(self) -> None:
        """Have the last one not count, from note_failure() on."""
        self.count -= 1

    def note_failure(self, node: str, why: str) -> None:
        """Note why it goes on elsewhere than on `node`."""
        self.failed[node] = why
        try:
            self.note(self.newest)
        except OSError:
            pass  # a count that is too high, and a comparison that is missed, are no more than that

    def failed_alike(self, node: str, why: str) -> str:
        """Return another node than `node` from which it went on for the same reasons; empty if there is none."""
        return next((other for other, said in self.failed.items() if other != node and said == why), "")

    def note(self, newest: int) -> None:
        """Have them count for the checkpoint `newest`, too, which is hardly any further."""
        tried: Tried = {"newest": newest, "tries": self.count}
        if self.failed:
            tried["failed"] = self.failed
        files.write_json(self.path, tried, durable=True)


def _list(directory: str) -> str:
    return f"`oci-criu-shim ckpt list {directory}` shows the checkpoints that there are"


def sources(value: str, task: Task, directory: str) -> list[str]:
    """Return the checkpoints that --restart-dir=`value` names for `task`, newest first.

    JOBID names a job (12, or 12_3 of an array), in the same checkpoint `directory` or where the job has noted;
    JOBID:SEQ names one of its checkpoints. An absolute path names a checkpoint, or the directory of a task or of a
    job. Raise ShimError if there is none.
    """
    inner, job = task.key.partition("/")[2], ""
    if named := re.fullmatch(r"(\d+(?:_\d+)?)(?::(\d+))?", value):
        job = _kept(named[1], task, directory)
        path = os.path.join(job, inner, named[2] or "")
    elif value.startswith("/"):
        path = value
        if os.path.isdir(os.path.join(value, inner)):
            path = os.path.join(value, inner)
    else:
        said = f"--restart-dir={value} is neither JOBID, nor JOBID:SEQ, nor an absolute path"
        raise ShimError(said, _list(directory))
    path = os.path.normpath(path)
    try:
        found = [path] if os.path.lexists(os.path.join(path, committed.MANIFEST)) else _newest_first(path)
    except OSError as error:
        hint = committed.OWNERS if isinstance(error, PermissionError) else "name a checkpoint, or a directory with some"
        raise ShimError(f"--restart-dir={value}: {path}: {error.strerror}", hint) from None
    if not found:
        raise _none(value, path, task, directory)
    return found


def _none(value: str, path: str, task: Task, directory: str) -> ShimError:
    """Return the error if there is no checkpoint in `path`: it says what the job's directory has instead."""
    own, seq = (path, "") if owner.job_of(path) else os.path.split(path)
    job = os.path.dirname(own)
    numbers = {other: Store(other, ".").numbers() for other in owner.task_directories(job)} if owner.job_of(own) else {}
    others = [other for other in numbers if numbers[other]]
    if numbers.get(own):
        has = ", ".join(map(str, numbers[own]))
        return ShimError(f"--restart-dir={value}: {own} has no checkpoint {seq}; it has {has}", _list(directory))
    if not others:
        return ShimError(f"--restart-dir={value}: there is no checkpoint in {path}", _list(directory))
    has = ", ".join(map(os.path.basename, others))
    said = f"--restart-dir={value}: {job} has none of step {task.step_name} task {task.rank}; it has {has}"
    return ShimError(said, f"--restart-dir={others[0]} names that one")


def _kept(name: str, task: Task, directory: str) -> str:
    """Return where the checkpoints of job `name` are: in this job's checkpoint `directory`, or where it has noted.

    `name` may be that of an array's job. Raise ShimError if that has no history.
    """
    number = history.job_named(directory, name) if "_" in name else int(name)
    if number is None or not history.has_anything(directory, number):
        for cluster, job, place in pointers.find(name):
            if cluster == task.cluster:
                return os.path.join(place, str(job))
    if number is None:
        hint = "`oci-criu-shim job status` lists the jobs that have one"
        raise ShimError(f"--restart-dir: job {name} has no history in {directory}", hint)
    return os.path.join(directory, str(number))


def _newest_first(path: str) -> list[str]:
    return [os.path.join(path, str(seq)) for seq in reversed(Store(path, ".").numbers())]
