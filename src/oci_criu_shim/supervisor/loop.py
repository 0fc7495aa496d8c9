"""Supervise one container until its end: copy its streams, pass signals on, have it checkpointed."""

from __future__ import annotations

import gc
import os
import select

from oci_criu_shim import files
from oci_criu_shim.container.intake import RETRY_MS
from oci_criu_shim.errors import line_of
from oci_criu_shim.host import process
from oci_criu_shim.host.quick import signal
from oci_criu_shim.host.signals import CHECKPOINT, HARMLESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.container.stdio import Stdio
    from oci_criu_shim.host.signals import Signals
    from oci_criu_shim.log import Log
    from oci_criu_shim.supervisor.attempts import Attempts


class Supervisor:
    """Looks after one container.

    `main` is the child whose exit status is the container's: the backend's foreground `run`, or the init itself. The
    backend writes the init's pid to `pid_file`. `attempts` sees to checkpoints; None if the job did not ask for any.
    `owner` is a pidfd of the process that answers for the container to Slurm: if the container outlived it, the job's
    next run would not be alone. `told` becomes True if the container is sent a signal that may end it.
    """

    def __init__(
        self,
        container: Container,
        main: int,
        pid_file: str,
        stdio: Stdio,
        signals: Signals,
        log: Log,
        attempts: Attempts | None,
        owner: int | None = None,
    ) -> None:
        self.container = container
        self.main = main
        self.pid_file = pid_file
        self.stdio = stdio
        self.signals = signals
        self.log = log
        self.attempts = attempts
        self.owner = owner
        self.told = False
        self.status: int | None = None
        self.recorded = container.load().get("init") is not None
        self.patience_ms = 2
        self.complained = False

    def run(self) -> int:
        """Supervise the container until its end; return its exit status, or 128 plus the signal that ended it."""
        gc.enable()  # our caller may have turned it off, to save time
        if self.attempts:
            self.attempts.policy.started()
        while self.status is None or (self.attempts and self.attempts.child is not None):
            self._wait()
            for number in self.signals.read():
                self._signal(number)
            self._reap()
            if not self.recorded:
                self._record_init()
            if self.attempts and self.recorded and self.status is None:
                self.attempts.pursue()
        if self.attempts:
            self.attempts.policy.compressor.stop()
        self.stdio.drain()
        self.stdio.ended()
        return process.exit_status(self.status)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.signals.reader, select.POLLIN)
        if self.owner is not None:
            poll.register(self.owner, select.POLLIN)
        watched = self.stdio.watch()
        if self.attempts and self.attempts.may_end_it:
            # The job's other nodes may be further: if what feeds our input was ended already, that is not its end.
            watched.pop(0, None)
        for descriptor, events in watched.items():
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
        if self.stdio.intake.held:
            return RETRY_MS
        seconds = self.attempts.timeout() if self.attempts and self.status is None else None
        return None if seconds is None else seconds * 1000

    def _record_init(self) -> None:
        """Record the init once the backend has written its pid."""
        try:
            init = process.identity(files.read_number(self.pid_file))
            self.container.update({"init": init, "held": False})
            self.recorded = True
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass  # not yet
        except OSError as error:
            if not self.complained:
                what = f"no checkpoint of {self.container.name} can be taken until it can be noted"
                self.log.error(f"{what}: {line_of(error)}")
            self.complained = True
        self.patience_ms = min(self.patience_ms * 2, 200)

    def _signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # _reap() is next in any case
        if number == signal.SIGWINCH and self.stdio.resized():
            return
        taken = self.attempts is not None and self.status is None and self.attempts.take_signal(number)
        if not taken and number != CHECKPOINT:
            self._pass_on(number)

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
            elif self.attempts and pid == self.attempts.child:
                for number in self.attempts.ended(code):
                    self._pass_on(number)
