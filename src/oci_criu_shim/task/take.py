"""Take a supervised task's checkpoints, in a child of its supervisor."""

from __future__ import annotations

import errno
import json
import os
import select
import time
from contextlib import contextmanager

from oci_criu_shim import files, units
from oci_criu_shim.container import registry
from oci_criu_shim.container.checkpoint_hook import RESTORED, CheckpointHook
from oci_criu_shim.container.record import ANSWER
from oci_criu_shim.dump import chain, client
from oci_criu_shim.dump.dump import Dump, Taken
from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.host import criu, process
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import own_steps, schedule
from oci_criu_shim.task.policy import ENDING, FAILED, LOST, NO_REASON, TAKEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.dump.known import Known
    from oci_criu_shim.task.policy import Policy
    from oci_criu_shim.transfer.local import Local
    from oci_criu_shim.transfer.sender import Peer

ROOM = (
    "`oci-criu-shim ckpt prune --older-than=0s` removes what ended jobs have left; another --checkpoint-dir may have"
    " more room"
)
KILLED = "what took it was killed"
ENDING_MS = 300  # a process that is about to end has ended by then


class Taker:
    """Takes the checkpoints that `policy` decides on."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.container = policy.container
        self.task = policy.task
        self.store = policy.store
        self.log = policy.log
        self.facts: dict[str, object] = {}  # of the last checkpoint
        self.end = 0.0  # when the job must be gone, in seconds since the epoch; 0 if that is not known
        self.waited = 0.0  # seconds, for the last checkpoint's turn
        self.place: Peer | Local | None = None  # of the last one, if it is not the store
        self.known: Known | None = None  # what the place of the next one has of its memory already

    def connect(self) -> socket.socket:
        """Return a connection to the step's helper. Raise ShimError if it doesn't answer."""
        return client.connect(RunDirectory(self.container.root).helper_socket(self.task))

    def connect_early(self) -> socket.socket | None:
        """Have the helper's worker get ready while Slurm is asked; return None if it doesn't: a dump will say why."""
        try:
            return self.connect()
        except ShimError:
            return None

    @contextmanager
    def turn(self, reason: str) -> Iterator[bool]:
        """Wait for the turn of a checkpoint if the site has some wait, and hold it in the block until the commit.

        Yield False if none is to be taken: something more urgent has come, or the task has steps by now.
        """
        if not self.policy.pace_dir or reason not in (*ENDING, schedule.INTERVAL):
            yield True
            return
        from oci_criu_shim.task import pace

        with pace.turn(self.policy, reason, self.end) as found:
            self.waited, self.store.on_commit = found.waited, found.release
            yield not (found.is_overtaken or own_steps.are_there(self.container, self.task, self.store))

    def dump(self, reason: str, connection: socket.socket | None = None, place: Peer | Local | None = None) -> str:
        """Take a checkpoint; return where it is, how large it is and how long it took, in words.

        It goes to `place`, if that is given, and not to the store.

        Raise ShimError, with the reason in one line, if that fails: the container runs on.
        """
        self.place = place
        try:
            pid = self.container.alive("init")
            if pid is None:
                said = f"container {self.container.name!r} is not running"
                raise ShimError(KILLED if self.policy.ended_by() else said)
            with self._hook(pid).around(reason, ends=reason in ENDING):
                taken = self._take(pid, reason, connection, place)
        except OSError as error:
            raise _worded(error) from None
        elsewhere = place.facts(taken.checkpoint) if place else {}
        self.facts = {**taken.facts(), "waited": self.waited, **elsewhere}
        self.log.note("checkpointed", **self.facts, runs_on=reason not in ENDING)
        try:
            self.store.keep(self.policy.keep)
        except OSError as error:
            said = f"older checkpoints of {self.task.describe()} could not be removed"
            self.log.event(f"{said}: {_worded(error).line()}")
        if not taken.checkpoint.parent and not place:  # an increment's time is not in proportion to its size
            self._measure(taken)
        return taken.describe()

    def _hook(self, pid: int) -> CheckpointHook:
        backend = registry.backend_of(self.container, {}, self.log)
        known = self.policy.hook, self.policy.hook_limit, self.task.describe()
        return CheckpointHook(self.container, pid, backend, *known, self.log, self.end)

    def tell_of_restore(self) -> int:
        """Have the hook told that the container was restored; return NO_REASON."""
        if pid := self.container.alive("init"):
            self._hook(pid).run(RESTORED, self.policy.restored)
        return NO_REASON

    def _measure(self, taken: Taken) -> None:
        """Note how long it took, checksums included, as the job waits for them; compression takes what Slurm leaves."""
        is_compressed = taken.checkpoint.written != taken.checkpoint.dumped
        end = taken.begun + taken.seconds if is_compressed else time.monotonic()
        self.policy.estimate.measured(taken.checkpoint.dumped, taken.begun, end)

    def _tracked(self) -> bool:
        """Return whether the kernel tells of changes; if it doesn't, the user is told once."""
        found, first = chain.tracked(self.container)
        if first and not found:
            full = f"every checkpoint of {self.task.describe()} is a full one"
            self.log.event(f"this kernel doesn't track written memory: {full} (no error)")
        return found

    def _take(
        self, pid: int, reason: str, connection: socket.socket | None, place: Peer | Local | None = None
    ) -> Taken:
        """Take an increment if one is possible; take a whole checkpoint if not, or if the increment failed."""
        runs_on = reason not in ENDING
        goes_on = runs_on and self._tracked()
        dump = Dump(self.container, pid, {"leave_running": runs_on}, self.policy.closes, self.known)
        for line in dump.changes:
            self.log.event(f"{self.task.describe()} comes back changed: {line}")
        if place:
            taken = dump.take(place, reason, connection or self.connect())
            self._tell_of_what_is_left_out(dump)
            return taken
        link = chain.Link(self.container, goes_on)
        try:
            taken = dump.take(self.store, reason, connection or self.connect(), link)
        except ShimError as error:
            if not link.is_increment or isinstance(error, Killed) or self.container.alive("init") is None:
                raise
            self.log.event(f"the checkpoint of {self.task.describe()} is a whole one: {error.line()}")
            dump = Dump(self.container, pid, {"leave_running": runs_on}, self.policy.closes)
            taken = dump.take(self.store, reason, self.connect(), chain.Link(self.container, goes_on))
        self._tell_of_what_is_left_out(dump)
        return taken

    def _tell_of_what_is_left_out(self, dump: Dump) -> None:
        if dump.left_out:
            what = f"{dump.left_out} files of the root file system that have changed: they belong to others"
            self.log.event(f"the checkpoint of {self.task.describe()} is without {what}")

    def look(self) -> int:
        """Ask Slurm for the limits of a checkpoint's time, and tell the supervisor; return NO_REASON.

        The first time, say what can be known of the job's checkpoints.
        """
        if self.policy.looks == 1 and not self.task.local:
            from oci_criu_shim.task import outlook

            outlook.tell(self.policy)
        try:
            self.note_limits(controller.job(self.task.job).end_time if self.policy.when.timeout else 0)
        except (ShimError, OSError) as error:
            self.log.debug(str(error))
        return NO_REASON

    def note_limits(self, end: int) -> None:
        """Tell the supervisor the time limit, `end`, and the grace time.

        Raise ShimError if Slurm doesn't tell the latter, and there is nothing else to note.
        """
        grace = self.policy.grace
        if self.policy.when.preempt and not grace:
            try:
                grace = controller.grace_time(self.task.partition, self.task.qos)
            except ShimError as error:
                if not self.policy.when.timeout:
                    raise
                self.log.debug(error.line())
        self.policy.note_limits(end, grace)

    def run_on(self, reason: str) -> int:
        """Take a checkpoint of a container that goes on; return one of policy's results."""
        has_steps = own_steps.are_there(self.container, self.task, self.store)
        if has_steps and reason != schedule.REQUEST:
            return NO_REASON
        try:
            if has_steps:
                raise ShimError(own_steps.SAID, "`oci-criu-shim job status` shows theirs")
            with self.turn(reason) as is_due:
                if not is_due:
                    return NO_REASON
                said = f"checkpointed {self.task.describe()} ({reason}) to {self.dump(reason)}; it runs on"
            status = TAKEN
            self.log.event(said)
        except ShimError as error:
            said, status = self.failed(error)
        if reason == schedule.REQUEST:
            self.answer(status, said)
        return status

    def answer(self, status: int, said: str) -> None:
        """Tell whoever has asked for a checkpoint what came of it."""
        facts = "\n" + json.dumps(self.facts) if status == TAKEN else ""
        files.write_atomically(self.container.path(ANSWER), f"{status} {said}{facts}".encode())

    def failed(self, error: ShimError) -> tuple[str, int]:
        """Say what went wrong; return the words, and one of policy's results.

        Say nothing if the program has ended meanwhile: no dump survives that, and nobody needs one of it. But if it
        ended by a checkpoint, say that there is this checkpoint.
        """
        what, error = self.task.describe(), self._full(error)
        ended = _has_ended(self.container)
        if ended and (found := self.policy.ended_by()):
            return self.say_ended_by(found, error.line()), TAKEN
        if ended and isinstance(error, Killed):
            said = f"{what} ended while it was checkpointed, since what did that was killed: {error.line()}"
            self.log.error(said, "checkpoint-failed", reason=error.line())
            return said, LOST
        if ended:
            said = f"{what} ended while it was checkpointed"
            self.log.debug(f"{said}: {error.line()}")
            return said, NO_REASON
        said = f"{what} could not be checkpointed and runs on: {error.line()}"
        self.log.error(said, "checkpoint-failed", reason=error.line())
        return said, FAILED

    def _full(self, error: ShimError) -> ShimError:
        """Return a short error if there was no room for the checkpoint; else the given one."""
        if error.hint != criu.FULL:
            return error
        self.log.debug(str(error))
        directory, hint = (self.place.directory, "") if self.place else (self.store.directory, ROOM)
        status, init = os.statvfs(directory), self.container.alive("init")
        has = f"; the container has {units.size(process.memory(init))} of memory" if init else ""
        size = (
            f"{units.size(status.f_bavail * status.f_frsize)} free of {units.size(status.f_blocks * status.f_frsize)}"
        )
        what = "your disk quota is used up" if "quota" in str(error) else "the disk is full"
        return ShimError(f"{directory}: {what} ({size}{has})", hint)

    def say_ended_by(self, found: Checkpoint, failed: str) -> str:
        """Say that the container ended by the checkpoint `found`, and what failed then; return that line."""
        frozen = found.manifest["frozen_seconds"]
        taken = Taken(found, frozen, time.monotonic() - frozen)
        said = f"checkpointed {self.task.describe()} to {taken.describe()}, but then something failed: {failed}"
        self.log.event(said, "checkpointed", **taken.facts(), runs_on=False)
        return said


def _worded(error: OSError) -> ShimError:
    """Return an error for the user: the file, and the fault."""
    text = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ShimError(f"{error.filename}: {text}" if error.filename else text, criu.FULL if full else "")


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
