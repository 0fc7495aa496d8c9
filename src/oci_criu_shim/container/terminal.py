"""Relay a container's terminal, whose master is ours, to and from our own terminal.

The supervisor holds it, not the backend, so that a checkpoint knows of it, and a restore can give it back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import termios

from oci_criu_shim.container.intake import CHUNK
from oci_criu_shim.container.stdio import Stdio
from oci_criu_shim.errors import ShimError, cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.intake import Intake
    from oci_criu_shim.container.record import Streams

PATIENCE = 10.0  # seconds for a backend that has created the container to hand over the terminal
HINT = "choose a backend that knows --console-socket, as runc and crun do"
SIZE = 8  # bytes of struct winsize (ioctl_tty(2))


class Terminal(Stdio):
    """A terminal; `master` is None until attach(), and again when nobody has the terminal open any more."""

    def __init__(self, intake: Intake | None = None) -> None:
        super().__init__({2: 2}, (1,), intake)  # the backend's messages go to our standard error
        self.master: int | None = None
        self.modes: list[int | list[bytes | int]] | None = None  # our own terminal's before (termios.tcgetattr())

    def record(self) -> Streams:
        """Return no names: a checkpoint finds the container's streams in its images."""
        return {"streams": ["", "", ""], "input": self.intake.note}

    def attach(self, master: int) -> None:
        """Relay the terminal with this `master` from now on."""
        os.set_blocking(master, False)
        self.master = master

    def resized(self) -> bool:
        """Give the container's terminal the size of ours, of which the kernel tells its programs.

        Return whether there are both.
        """
        if self.master is None or self.modes is None:
            return False
        try:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(SIZE)))
        except OSError as error:
            if error.errno != errno.EIO:  # ours was hung up
                raise
            return False
        return True

    def started(self) -> None:
        """Put our own terminal in raw mode: the container's terminal is the one to interpret what is typed."""
        self.intake.start()
        if self.master is not None and os.isatty(0):
            self.modes = termios.tcgetattr(0)
            _set_raw(0)
            self.resized()

    def ended(self) -> None:
        """Give our own terminal the modes back that it had before."""
        if self.modes is None:
            return
        try:
            termios.tcsetattr(0, termios.TCSADRAIN, self.modes)
        except termios.error as error:  # not an OSError
            if error.args[0] != errno.EIO:  # it was hung up
                raise
        self.modes = None

    def watch(self) -> dict[int, int]:
        """Return {descriptor: poll events} to wait for."""
        events = self._outputs()
        if self.master is None or self.intake.is_held():
            return events
        if self.intake.pending:
            events[self.master] = events.get(self.master, 0) | select.POLLOUT
        if self.intake.wants_more:
            events[0] = select.POLLIN
        return events

    def _outputs(self) -> dict[int, int]:
        if self.output[1]:
            return {1: select.POLLOUT}
        return {} if self.master is None else {self.master: select.POLLIN}

    def ready(self, descriptor: int, event: int) -> None:
        """Copy what poll(2) reported."""
        if descriptor == 0:
            self.intake.read()
        elif descriptor == 1:
            self._write_output(1)
        elif descriptor == self.master:
            if self.intake.pending:
                self._write_input()
            if event & ~select.POLLOUT and not self.output[1]:
                self._copy_output(1)

    def _copy_output(self, stream: int) -> None:
        assert self.master is not None
        try:
            self.output[stream] = os.read(self.master, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open any more
            self._close_output(stream)
        else:
            self._write_output(stream)

    def _close_output(self, stream: int) -> None:
        if self.master is not None:
            os.close(self.master)
        self.master = None

    def _write_input(self) -> None:
        assert self.master is not None
        try:
            self.intake.pass_on(self.master)
        except OSError:  # EIO: nobody has the terminal open any more
            self.intake.pending = b""


def _set_raw(descriptor: int) -> None:
    """Do what cfmakeraw(3) does."""
    modes = termios.tcgetattr(descriptor)
    modes[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
    modes[0] &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    modes[1] &= ~termios.OPOST
    modes[2] = modes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    modes[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)


class ConsoleSocket:
    """A socket to which a backend sends a terminal's master (--console-socket), at `path`, which must not exist."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(path)
        self.socket.listen(1)
        self.socket.settimeout(PATIENCE)

    def master(self) -> int:
        """Wait for the backend to send the master, and return it. Raise ShimError if it sends none."""
        try:
            connection, _ = self.socket.accept()
            with connection:
                _, descriptors, _, _ = socket.recv_fds(connection, CHUNK, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise ShimError(f"the backend sent no terminal: {cause_of(error)}", HINT) from None
        finally:
            self.close()
        if not descriptors:
            raise ShimError("the backend sent no terminal", HINT)
        return descriptors[0]

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        self.socket.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
