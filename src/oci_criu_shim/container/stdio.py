"""Relay a container's standard streams between pipes of ours and our own streams.

A container that held Slurm's own descriptors could not be dumped, since they lead out of it; nor would its output be
found again after a restore (criu issue 2937).

If the reader of our output has stopped, signals can't wait for it. So output that can't be written at once is kept
until poll(2) reports that it can, and no more is read from the container meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
from abc import ABC, abstractmethod

from oci_criu_shim.container.intake import CHUNK, Intake
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oci_criu_shim.container.record import Streams

# A checkpoint knows the container's end of each pipe: it reads 0, and writes 1 and 2.
STREAMS = (0, 1, 2)


class Stdio(ABC):
    """The supervisor's side of a container's standard streams: Pipes, or a Terminal (terminal.py).

    `inside` are the descriptors that the container, or the backend in its stead, is started with. `output` is what was
    read from the container and is still to be written, by our stream. `lost` is the first error that lost some of it.
    """

    def __init__(self, inside: dict[int, int], outputs: Iterable[int], intake: Intake | None) -> None:
        self.inside = inside
        self.intake = intake or Intake()
        self.output = dict.fromkeys(outputs, b"")
        self.lost: OSError | None = None

    @abstractmethod
    def record(self) -> Streams:
        """Return what a checkpoint must know of the streams."""

    @abstractmethod
    def attach(self, master: int) -> None:
        """Take the master of the container's terminal. Raise ShimError if it should have none."""

    @abstractmethod
    def started(self) -> None:
        """Prepare for a container that runs now."""

    @abstractmethod
    def resized(self) -> bool:
        """Pass on the size of our terminal; return whether there is a terminal to pass it on to."""

    @abstractmethod
    def ended(self) -> None:
        """Leave our own streams as they were, after everything has been copied."""

    @abstractmethod
    def watch(self) -> dict[int, int]:
        """Return {descriptor: poll events} to wait for."""

    @abstractmethod
    def ready(self, descriptor: int, event: int) -> None:
        """Copy what poll(2) reported."""

    @abstractmethod
    def _outputs(self) -> dict[int, int]:
        """Return the part of watch() that the container's output needs."""

    @abstractmethod
    def _copy_output(self, stream: int) -> None:
        """Read from the container what goes to our `stream`, and write it."""

    @abstractmethod
    def _close_output(self, stream: int) -> None:
        """Close the descriptor from which _copy_output() reads, if it is open."""

    def drain(self) -> None:
        """Copy what the container wrote last, when no process is left to write more."""
        while True:
            poll = select.poll()
            for descriptor, events in self._outputs().items():
                poll.register(descriptor, events)
            ready = poll.poll(None if any(self.output.values()) else 0)
            if not ready:
                return
            for descriptor, event in ready:
                self.ready(descriptor, event)

    def _write_output(self, stream: int) -> None:
        """Write as much as goes out at once.

        Output that can't be written, to a full disk say, is lost: the program is not told, and goes on.
        """
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        while self.output[stream] and poll.poll(0):
            try:
                written = os.write(stream, self.output[stream][: _room(stream)])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self.output[stream] = b""
                self._close_output(stream)
            except OSError as error:
                self.output[stream] = b""
                self.lost = self.lost or error
            else:
                self.output[stream] = self.output[stream][written:]


class Pipes(Stdio):
    """Three pipes; `started()` closes the container's ends here.

    A restored container gets a pipe only for a stream that was one `before`, when it was dumped. Any other stream, such
    as a terminal that it shares with us, it has again by itself, and what is read there is not for us.
    """

    def __init__(self, intake: Intake | None = None, before: Sequence[str] = ()) -> None:
        pipes = [os.pipe() for _ in STREAMS]
        super().__init__({0: pipes[0][0], 1: pipes[1][1], 2: pipes[2][1]}, (1, 2), intake)
        self.outside = {0: pipes[0][1], 1: pipes[1][0], 2: pipes[2][0]}
        self.inodes = {stream: os.fstat(end).st_ino for stream, end in self.inside.items()}
        self.others = {stream: name for stream, name in enumerate(before) if not name.startswith("pipe:")}
        # What waits there can be read by it when our end is closed, and it does not count as an end.
        self.input_path = os.open(f"/proc/self/fd/{pipes[0][0]}", os.O_PATH)
        os.set_blocking(self.outside[0], False)

    def record(self) -> Streams:
        """Return the streams, named as in /proc/PID/fd, and the descriptors by which they are looked into."""
        record: Streams = {
            "streams": [self.others.get(stream, f"pipe:[{self.inodes[stream]}]") for stream in STREAMS],
            "outside": [self.input_path, self.outside[1], self.outside[2]],
        }
        return record if 0 in self.others else {**record, "input": self.intake.note}

    def started(self) -> None:
        """Close the ends that the container has now, so that end of file means that it closed them."""
        for end in self.inside.values():
            os.close(end)
        self.inside.clear()
        self.intake.start()
        self._close_input_at_end()

    def attach(self, master: int) -> None:
        """Raise ShimError: a container that had a terminal needs a config.json that asks for one."""
        os.close(master)
        raise ShimError("the container had a terminal", "set process.terminal in config.json")

    def resized(self) -> bool:
        """Return False: a pipe has no size."""
        return False

    def ended(self) -> None:
        """Do nothing."""

    def watch(self) -> dict[int, int]:
        """Return {descriptor: poll events} to wait for."""
        events = self._outputs()
        if 0 in self.outside and 0 not in self.others and not self.intake.is_held():
            # POLLERR alone: the container closed its input.
            events[self.outside[0]] = select.POLLOUT if self.intake.pending else 0
            if self.intake.wants_more:
                events[0] = select.POLLIN
        return events

    def _outputs(self) -> dict[int, int]:
        events = {self.outside[s]: select.POLLIN for s in (1, 2) if s in self.outside and not self.output[s]}
        return events | {s: select.POLLOUT for s in (1, 2) if self.output[s]}

    def ready(self, descriptor: int, event: int) -> None:
        """Copy what poll(2) reported."""
        for stream in (1, 2):
            if self.outside.get(stream) == descriptor:
                self._copy_output(stream)
        if descriptor in self.output:
            self._write_output(descriptor)
        elif descriptor == 0:
            self.intake.read()
            self._close_input_at_end()
        elif descriptor == self.outside.get(0):
            self._write_input(event)

    def _copy_output(self, stream: int) -> None:
        self.output[stream] = os.read(self.outside[stream], CHUNK)
        if self.output[stream]:
            self._write_output(stream)
        else:
            self._close_output(stream)

    def _close_output(self, stream: int) -> None:
        if stream in self.outside:
            os.close(self.outside.pop(stream))

    def _write_input(self, event: int) -> None:
        if event & (select.POLLERR | select.POLLHUP):
            self.intake.end()
        else:
            try:
                self.intake.pass_on(self.outside[0])
            except BrokenPipeError:
                self.intake.end()
        self._close_input_at_end()

    def _close_input_at_end(self) -> None:
        if self.intake.is_over and 0 in self.outside:
            os.close(self.outside.pop(0))


def _room(descriptor: int) -> int:
    """Return how many bytes a descriptor that poll(2) reports as ready takes without waiting.

    A pipe may have room for PIPE_BUF only.
    """
    return CHUNK if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF


def unread(descriptor_path: str) -> bytes:
    """Return the bytes in the pipe at /proc/PID/fd/N that nobody has read yet, and leave them there.

    A container that runs on reads them there. If they were taken out and put back, the supervisor's next bytes could
    come before them.
    """
    import termios

    descriptor = os.open(descriptor_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        waiting = int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
        return _copy(descriptor, waiting) if waiting else b""
    except BlockingIOError:
        return b""
    finally:
        os.close(descriptor)


def _copy(pipe: int, size: int) -> bytes:
    """Return the next `size` bytes in a pipe.

    A user of many pipes gets small ones, and may not enlarge them (pipe-user-pages-soft in pipe(7)); so our pipe is
    enlarged only if they don't fit.
    """
    reader, writer = os.pipe()
    try:
        copied = linux.tee(pipe, writer, size)
        if copied < size:
            os.read(reader, copied)
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ))
            copied = linux.tee(pipe, writer, size)
        return os.read(reader, copied)
    finally:
        os.close(reader)
        os.close(writer)
