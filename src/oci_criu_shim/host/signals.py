"""Signals as bytes to read: none is lost, none interrupts what is being done."""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

# The plugin's watcher sends it when Slurm signals the job's extern step (spank/protocol.h).
CHECKPOINT = signal.SIGRTMIN + 3
# `start` sends it to the supervisor of a container that is held until then.
START = signal.SIGRTMIN + 4

PASSED_ON = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGALRM, signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGWINCH, signal.SIGURG),
)
# Those that end no program, whether it knows them or not; and those that only halt it.
HARMLESS = (signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH, signal.SIGURG)
STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Signals:
    """From its making on, CHECKPOINT, START, SIGCHLD and PASSED_ON arrive at the descriptor `reader`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD, CHECKPOINT, START):
            signal.signal(number, _noted)

    def read(self) -> bytes:
        """The numbers of the signals that came since, one byte each."""
        try:
            return os.read(self.reader, 512)
        except BlockingIOError:
            return b""

    def wait_for(self, number: int) -> None:
        """Until that one has come; what else has is there for read()."""
        came = b""
        while number not in came:
            select.select([self.reader], [], [])
            came += self.read()
        os.write(self.writer, came.replace(bytes([number]), b""))


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has it."""
