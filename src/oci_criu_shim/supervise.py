"""One container from its start to its end: copy its streams, pass signals on, checkpoint it."""

from __future__ import annotations

import os
import select
import signal

from oci_criu_shim import files, process
from oci_criu_shim.signals import CHECKPOINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.container import Container
    from oci_criu_shim.signals import Signals
    from oci_criu_shim.stdio import Stdio

# What a checkpoint child exits with.
TAKEN, NOT_PREEMPTED, FAILED = 0, 3, 4


class Supervisor:
    """`main` is the child whose exit status is the container's: the backend's foreground `run`, or the init itself.

    `pid_file` is where the backend writes the init's pid. `checkpoint` takes a checkpoint because of a preemption, in a
    child of its own, and returns one of the three above; None where the job did not ask for any.
    """

    def __init__(
        self,
        container: Container,
        main: int,
        pid_file: str,
        stdio: Stdio,
        signals: Signals,
        checkpoint: Callable[[], int] | None,
    ) -> None:
        self.container = container
        self.main = main
        self.pid_file = pid_file
        self.stdio = stdio
        self.signals = signals
        self.checkpoint = checkpoint
        self.checkpointing: int | None = None
        self.terminating = False
        self.status: int | None = None
        self.recorded = container.load().get("init") is not None
        self.patience_ms = 2

    def run(self) -> int:
        """The container's exit status: its own, or 128 plus the signal that ended it."""
        while self.status is None or self.checkpointing is not None:
            self._wait()
            for number in self.signals.read():
                self._signal(number)
            self._reap()
            if not self.recorded:
                self._record_init()
        self.stdio.drain()
        self.stdio.ended()
        return process.exit_status(self.status)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.signals.reader, select.POLLIN)
        for descriptor, events in self.stdio.watch().items():
            poll.register(descriptor, events)
        timeout = None if self.recorded else self.patience_ms
        for descriptor, event in poll.poll(timeout):
            if descriptor != self.signals.reader:
                self.stdio.ready(descriptor, event)

    def _record_init(self) -> None:
        """Note the init once the backend has written its pid."""
        try:
            init = process.identity(files.read_number(self.pid_file))
            self.container.update(init=init, held=False)
            self.recorded = True
        except (FileNotFoundError, ProcessLookupError, ValueError):
            self.patience_ms = min(self.patience_ms * 2, 200)

    def _signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # _reap() is next in any case
        if number == signal.SIGWINCH and self.stdio.resized():
            return
        preemption = number in (signal.SIGTERM, CHECKPOINT)
        if preemption and self.checkpoint and self.status is None:
            self.terminating |= number == signal.SIGTERM
            if self.checkpointing is None:
                self.checkpointing = process.fork(self.checkpoint)
        elif number != CHECKPOINT:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        pid = self.container.alive("init")
        if pid is not None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        elif self.status is None:
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
            elif pid == self.checkpointing:
                self._checkpointed(code)

    def _checkpointed(self, code: int) -> None:
        self.checkpointing = None
        if code == NOT_PREEMPTED and self.terminating:
            self._pass_on(signal.SIGTERM)
        self.terminating = False
