"""One container from its start to its end: copy its streams, pass signals on, checkpoint it."""

from __future__ import annotations

import gc
import os
import select
import signal
import time

from oci_criu_shim import files
from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT, HARMLESS

# When the child that asked for a dump was killed: seconds until CRIU has the container, or will not any more, and those
# that it may then take to write what nobody waits for.
PAUSE, PATIENCE = 1.0, 120.0
# Seconds until what could not be done about a checkpoint is tried again, and how often Slurm is asked why it should be.
RETRY, TRIES = 3.0, 10

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.container.record import Container
    from oci_criu_shim.container.stdio import Stdio
    from oci_criu_shim.host.signals import Signals
    from oci_criu_shim.log import Log
    from oci_criu_shim.task.policy import Checkpointer


class Supervisor:
    """`main` is the child whose exit status is the container's: the backend's foreground `run`, or the init itself.

    `pid_file` is where the backend writes the init's pid. `checkpointer` knows when a checkpoint is due, and `take`,
    called in a child with the reason, takes one; None where the job did not ask for any. `owner` is a pidfd of who
    answers for the container to Slurm: were it to run on without, the job's next run would not be alone. `told` becomes
    whether the container was sent a signal that may have ended it.
    """

    def __init__(
        self,
        container: Container,
        main: int,
        pid_file: str,
        stdio: Stdio,
        signals: Signals,
        log: Log,
        checkpointer: Checkpointer | None,
        take: Callable[[str], int],
        owner: int | None = None,
    ) -> None:
        self.container = container
        self.main = main
        self.pid_file = pid_file
        self.stdio = stdio
        self.signals = signals
        self.log = log
        self.checkpointer = checkpointer
        self.take = take
        self.owner = owner
        self.child: int | None = None  # it takes a checkpoint, for the first of the `reasons`; others have come since
        self.reasons: list[str] = []
        self.wake = 0.0  # when a checkpoint may be due, by the monotonic clock
        self.again = 0.0  # not before then are the `reasons` seen to
        self.complaint = ""  # the last one, which is not repeated
        self.killed = False  # the last child was
        self.unanswered = 0  # so many children in a row have asked Slurm in vain
        self.terminating = False
        self.told = False
        self.status: int | None = None
        self.recorded = container.load().get("init") is not None
        self.patience_ms = 2

    def run(self) -> int:
        """The container's exit status: its own, or 128 plus the signal that ended it."""
        gc.enable()  # whoever started us may have saved it
        if self.checkpointer:
            self.checkpointer.started()
        while self.status is None or self.child is not None:
            self._wait()
            for number in self.signals.read():
                self._signal(number)
            self._reap()
            if not self.recorded:
                self._record_init()
            if self.checkpointer and self.recorded:
                self._checkpoint(self.checkpointer)
        if self.checkpointer:
            self.checkpointer.packing.stop()
        self.stdio.drain()
        self.stdio.ended()
        return process.exit_status(self.status)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.signals.reader, select.POLLIN)
        if self.owner is not None:
            poll.register(self.owner, select.POLLIN)
        for descriptor, events in self.stdio.watch().items():
            poll.register(descriptor, events)
        for descriptor, event in poll.poll(self._timeout_ms()):
            if descriptor == self.owner:
                self.owner = None
                self._pass_on(signal.SIGKILL)
            elif descriptor != self.signals.reader:
                self.stdio.ready(descriptor, event)

    def _timeout_ms(self) -> float | None:
        if not self.recorded:
            return self.patience_ms
        if self.checkpointer is None or self.status is not None or self.child is not None:
            return None
        return max((self.again if self.reasons else self.wake) - time.monotonic(), 0) * 1000

    def _record_init(self) -> None:
        """Note the init once the backend has written its pid."""
        try:
            init = process.identity(files.read_number(self.pid_file))
            self.container.update(init=init, held=False)
            self.recorded = True
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass  # not yet
        except OSError as error:
            self._complain(f"no checkpoint of {self.container.name} can be taken until it can be noted: {error}")
        self.patience_ms = min(self.patience_ms * 2, 200)

    def _signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # _reap() is next in any case
        if number == signal.SIGWINCH and self.stdio.resized():
            return
        reasons = self.checkpointer.at_signal(number) if self.checkpointer and self.status is None else []
        for reason in reasons:
            self.terminating |= number == signal.SIGTERM
            self._want(reason)
        if not reasons and number != CHECKPOINT:
            self._pass_on(number)

    def _want(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)

    def _checkpoint(self, checkpointer: Checkpointer) -> None:
        """Have a child see to what is wanted or due; one at a time."""
        if self.child is not None or self.status is not None:
            return
        if time.monotonic() >= self.wake:
            if reason := checkpointer.due():
                self._want(reason)
            self.wake = time.monotonic() + checkpointer.sleep()
        if self.reasons and time.monotonic() >= self.again:
            self._begin(checkpointer, self.reasons[0])

    def _begin(self, checkpointer: Checkpointer, reason: str) -> None:
        """Later, where there can't be a child now: at the user's or the job's limit of processes, say."""
        checkpointer.begin(reason)
        try:
            self.child = process.fork(lambda: self._take(reason))
            self.complaint = ""
        except OSError as error:
            self._complain(f"what is due for checkpoints of {self.container.name} ({reason}) has to wait: {error}")
            self.again = time.monotonic() + RETRY

    def _complain(self, text: str) -> None:
        if text != self.complaint:
            self.log.error(text)
        self.complaint = text

    def _take(self, reason: str) -> int:
        """In the child."""
        if self.killed:
            self._wait_for_criu()
        return self.take(reason)

    def _wait_for_criu(self) -> None:
        """Until the last dump has an end, which nobody waits for: no second one can trace the same processes."""
        limit = time.monotonic() + PATIENCE
        time.sleep(PAUSE)
        while (pid := self.container.alive("init")) and process.tracer(pid) and time.monotonic() < limit:
            time.sleep(PAUSE)

    def _pass_on(self, number: int) -> None:
        self.told |= number not in HARMLESS
        if not self.container.signal("init", number) and self.status is None:
            os.kill(self.main, number)  # the backend is still at work

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self.main:
                self.status = code
            elif pid == self.child and self.checkpointer:
                self._checkpointed(self.checkpointer, code)

    def _checkpointed(self, checkpointer: Checkpointer, code: int) -> None:
        from oci_criu_shim.task.policy import NO_REASON, UNKNOWN
        from oci_criu_shim.task.schedule import PREEMPT

        self.child = None
        self.killed = code < 0 and not self.killed
        if self.killed:
            return  # nothing came of it, so another one has a try
        reason = self.reasons.pop(0)
        self.unanswered = self.unanswered + 1 if code == UNKNOWN else 0
        if code == UNKNOWN and self.unanswered % TRIES:
            self._want(reason)
            self.again = time.monotonic() + RETRY
            return
        checkpointer.done(reason, code)
        self.wake = 0.0
        if reason == PREEMPT:
            if code in (NO_REASON, UNKNOWN) and self.terminating:
                self._pass_on(signal.SIGTERM)
            self.terminating = False
