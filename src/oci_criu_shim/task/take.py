"""Taking the checkpoints of a supervised task, in a child of its supervisor."""

from __future__ import annotations

import errno
import os
import select
import time

from oci_criu_shim import files
from oci_criu_shim.dump import chain, client
from oci_criu_shim.dump.dump import Dump, Taken
from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.slurm import controller, tasks
from oci_criu_shim.task import schedule
from oci_criu_shim.task.policy import ANSWER, ENDING, FAILED, LOST, NO_REASON, TAKEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.task.policy import Checkpointer

KILLED = "what took it was killed"
ENDING_MS = 300  # who is about to end has ended by then


def connect_early(of: Checkpointer) -> socket.socket | None:
    """The helper's worker gets ready while Slurm is asked; None where it doesn't answer, and a dump will say why."""
    try:
        return client.connect(tasks.helper_socket(of.container.root, of.task))
    except ShimError:
        return None


def dump(of: Checkpointer, reason: str, connection: socket.socket | None = None) -> str:
    """Take a checkpoint: where it is, how large, how long. ShimError, with one line of why: the container runs on."""
    try:
        pid = of.container.alive("init")
        if pid is None:
            raise ShimError(KILLED if of.ended_by() else f"container {of.container.name!r} is not running")
        runs_on = reason not in ENDING
        goes_on = runs_on and _tracked(of)
        taken = _take(of, pid, reason, goes_on, connection)
    except OSError as error:
        raise _worded(error) from None
    of.log.note("checkpointed", **taken.facts(), runs_on=runs_on)
    try:
        of.store.keep(of.keep)
    except OSError as error:
        of.log.event(f"older checkpoints of {of.task.describe()} could not be removed: {_worded(error).line()}")
    if not taken.checkpoint.parent:  # what an increment takes is not in proportion to its size
        _measure(of, taken)
    return taken.describe()


def _measure(of: Checkpointer, taken: Taken) -> None:
    """The job waits for the checksums, too; compression takes no more than Slurm leaves."""
    packed = taken.checkpoint.written != taken.checkpoint.dumped
    end = taken.begun + taken.seconds if packed else time.monotonic()
    of.estimate.measured(taken.checkpoint.dumped, taken.begun, end)


def _worded(error: OSError) -> ShimError:
    """It in a user's words: the file, what is wrong, and what to do where a disk or a quota is full."""
    text = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "`oci-criu-shim ckpt rm` removes older checkpoints; another --checkpoint-dir may have more room"
    return ShimError(f"{error.filename}: {text}" if error.filename else text, hint if full else "")


def _tracked(of: Checkpointer) -> bool:
    """Whether the kernel tells of what changes; where it doesn't, the user is told once."""
    found, first = chain.tracked(of.container)
    if first and not found:
        of.log.event(f"each checkpoint of {of.task.describe()} has all of its memory: none is incremental")
    return found


def _take(of: Checkpointer, pid: int, reason: str, goes_on: bool, connection: socket.socket | None) -> Taken:
    """An increment where there can be one, and a whole checkpoint where there can't, or where that failed."""
    link = chain.Chain(of.container, goes_on)
    try:
        return _take_one(of, pid, reason, link, connection)
    except ShimError as error:
        if not link.is_increment or isinstance(error, Killed) or of.container.alive("init") is None:
            raise
        of.log.event(f"the checkpoint of {of.task.describe()} is a whole one: {error.line()}")
    return _take_one(of, pid, reason, chain.Chain(of.container, goes_on), None)


def _take_one(of: Checkpointer, pid: int, reason: str, link: chain.Chain, connection: socket.socket | None) -> Taken:
    dump = Dump(of.container, pid, {"leave_running": reason not in ENDING})
    connection = connection or client.connect(tasks.helper_socket(of.container.root, of.task))
    taken = dump.take(of.store, reason, connection, link)
    if dump.left_out:
        what = f"{dump.left_out} files of the root file system that have changed: they belong to others"
        of.log.event(f"the checkpoint of {of.task.describe()} is without {what}")
    return taken


def look(of: Checkpointer) -> int:
    """Ask Slurm what bounds a checkpoint, and tell the supervisor."""
    try:
        limits(of, controller.job(of.task.job).end_time if of.when.timeout else 0)
    except (ShimError, OSError) as error:
        of.log.debug(str(error))
    return NO_REASON


def limits(of: Checkpointer, end: int) -> None:
    """The same, where the time limit is known to be `end`. ShimError where Slurm doesn't tell the grace time, and there
    is nothing else to note."""
    grace = of.grace
    if of.when.preempt and not grace:
        try:
            grace = controller.grace_time(of.task.partition, of.task.qos)
        except ShimError as error:
            if not of.when.timeout:
                raise
            of.log.debug(error.line())
    of.note_limits(end, grace)


def run_on(of: Checkpointer, reason: str) -> int:
    """Take a checkpoint of a container that goes on; one of checkpointer's results."""
    try:
        said, status = f"checkpointed {of.task.describe()} ({reason}) to {dump(of, reason)}; it runs on", TAKEN
        of.log.event(said)
    except ShimError as error:
        said, status = failed(of, error)
    if reason == schedule.REQUEST:
        files.write_atomically(of.container.path(ANSWER), f"{status} {said}".encode())
    return status


def failed(of: Checkpointer, error: ShimError) -> tuple[str, int]:
    """Say what went wrong: the words, and one of checkpointer's results. Not where the program has ended meanwhile,
    which no dump survives, and nobody needs one of; unless it ended by a checkpoint, which there is then."""
    what = of.task.describe()
    ended = _has_ended(of.container)
    if ended and (found := of.ended_by()):
        return say_ended_by(of, found, error.line()), TAKEN
    if ended and isinstance(error, Killed):
        said = f"{what} ended while it was checkpointed, since what did that was killed: {error.line()}"
        of.log.error(said, "checkpoint-failed", reason=error.line())
        return said, LOST
    if ended:
        said = f"{what} ended while it was checkpointed"
        of.log.debug(f"{said}: {error.line()}")
        return said, NO_REASON
    said = f"{what} could not be checkpointed and runs on: {error.line()}"
    of.log.error(said, "checkpoint-failed", reason=error.line())
    return said, FAILED


def say_ended_by(of: Checkpointer, found: Checkpoint, failed: str) -> str:
    """Say that the container ended by that checkpoint, and what failed then; that line."""
    frozen = found.manifest["frozen_seconds"]
    taken = Taken(found, frozen, time.monotonic() - frozen)
    said = f"checkpointed {of.task.describe()} to {taken.describe()}, but then something failed: {failed}"
    of.log.event(said, "checkpointed", **taken.facts(), runs_on=False)
    return said


def _has_ended(container: Container) -> bool:
    """Whether the container's init has ended, or ends in a moment: its last program may just have."""
    init = container.alive("init")
    if init is None:
        return True
    try:
        descriptor = os.pidfd_open(init)
    except ProcessLookupError:
        return True
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    try:
        return bool(ended.poll(ENDING_MS))
    finally:
        os.close(descriptor)
