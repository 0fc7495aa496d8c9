"""Read signals as bytes from a descriptor: none is lost, and none interrupts anything."""

from __future__ import annotations

import os
import select

from oci_criu_shim.host.quick import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

# The plugin's watcher sends this when Slurm signals the job's extern step (spank/protocol.h).
CHECKPOINT = signal.SIGRTMIN + 3
# `start` sends this to the supervisor of a container that is held until then.
START = signal.SIGRTMIN + 4

PASSED_ON = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGALRM, signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGWINCH, signal.SIGURG),
)
# Signals that end no program, whether it knows them or not; and signals that only halt it.
HARMLESS = (signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH, signal.SIGURG)
STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Signals:
    """Has CHECKPOINT, START, SIGCHLD and PASSED_ON arrive at the descriptor `reader` from now on.

    Our caller may have blocked them: since 25.05, Slurm's RunTimeCreate and RunTimeStart begin without SIGCHLD.
    """

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        noted = (*PASSED_ON, signal.SIGCHLD, CHECKPOINT, START)
        for number in noted:
            signal.signal(number, _noted)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, noted)

    def read(self) -> bytes:
        """Return the numbers of the signals that came since the last call, one byte each."""
        try:
            return os.read(self.reader, 512)
        except BlockingIOError:
            return b""

    def wait_for(self, number: int) -> None:
        """Wait for one signal, and leave all others to read()."""
        came = b""
        while number not in came:
            select.select([self.reader], [], [])
            came += self.read()
        os.write(self.writer, came.replace(bytes([number]), b""))


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has the signal."""
