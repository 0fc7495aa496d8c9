"""The container's standard streams: pipes of ours, copied to and from our own.

A container that held Slurm's own descriptors could not be dumped (they lead outside of it), nor
would its output be found again after a restore (criu issue 2937).

Whoever reads our output may have stopped to, and signals can't wait for that: what does not go out at once is kept
until poll(2) tells that it will, and no more is read of the container meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from oci_criu_shim.container.record import Streams

CHUNK = 1 << 16
# The container's end of each pipe is the one that a checkpoint knows; 0 is read there, 1 and 2 written.
STREAMS = (0, 1, 2)


class Stdio:
    """Three pipes. `inside` are the container's ends, until `started()` closes them here.

    A restored container has them only where its streams led to pipes `before`, when it was dumped: any other, such as a
    terminal that it shares with us, it has again, and what is read there is not for us.
    """

    def __init__(self, pending_input: bytes = b"", before: Sequence[str] = ()) -> None:
        self.inside: dict[int, int] = {}
        self.outside: dict[int, int] = {}
        for stream in STREAMS:
            reader, writer = os.pipe()
            self.inside[stream] = reader if stream == 0 else writer
            self.outside[stream] = writer if stream == 0 else reader
        self.inodes = {stream: os.fstat(end).st_ino for stream, end in self.inside.items()}
        self.others = {stream: name for stream, name in enumerate(before) if not name.startswith("pipe:")}
        self.pending = pending_input
        self.input_open = 0 not in self.others
        self.output = {1: b"", 2: b""}  # by stream: read of the container, and yet to go out
        self.lost: OSError | None = None  # why some of it did not: the first such error
        os.set_blocking(self.outside[0], False)

    def record(self) -> Streams:
        """What a checkpoint must know: the streams, named as /proc/PID/fd does, and our ends' descriptors."""
        return {
            "streams": [self.others.get(stream, f"pipe:[{self.inodes[stream]}]") for stream in STREAMS],
            "outside": [self.outside[stream] for stream in STREAMS],
        }

    def started(self) -> None:
        """The container has its ends now; without ours, end of file means that it closed them."""
        for end in self.inside.values():
            os.close(end)
        self.inside.clear()

    def attach(self, master: int) -> None:
        """These are no terminal: a checkpoint of a container that had one needs a config.json that asks for one."""
        os.close(master)
        raise ShimError("the container had a terminal", "set process.terminal in config.json")

    def resized(self) -> bool:
        """Whether the size of our terminal has been passed on: it has none."""
        return False

    def ended(self) -> None:
        """All has been copied."""

    def watch(self) -> dict[int, int]:
        """{descriptor: poll events} to wait for."""
        events = self._outputs()
        if 0 in self.outside:
            if self.pending:
                events[self.outside[0]] = select.POLLOUT
            elif self.input_open:
                events[0] = select.POLLIN
                events[self.outside[0]] = 0  # POLLERR alone: the container closed its input
        return events

    def _outputs(self) -> dict[int, int]:
        """The same, for what goes out."""
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
            self._read_input()
        elif descriptor == self.outside.get(0):
            self._write_input(event)

    def drain(self) -> None:
        """Copy what the container wrote last, when nobody is left to write more."""
        while True:
            poll = select.poll()
            for descriptor, events in self._outputs().items():
                poll.register(descriptor, events)
            ready = poll.poll(None if any(self.output.values()) else 0)
            if not ready:
                return
            for descriptor, event in ready:
                self.ready(descriptor, event)

    def _copy_output(self, stream: int) -> None:
        self.output[stream] = os.read(self.outside[stream], CHUNK)
        if self.output[stream]:
            self._write_output(stream)
        else:
            self._close_output(stream)

    def _write_output(self, stream: int) -> None:
        """As much as goes out at once.

        What can't be written, to a full disk say, is gone: nobody tells the program, which goes on.
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

    def _close_output(self, stream: int) -> None:
        if stream in self.outside:
            os.close(self.outside.pop(stream))

    def _read_input(self) -> None:
        try:
            self.pending = os.read(0, CHUNK)
        except OSError:
            self.pending = b""
        if not self.pending:
            self.input_open = False
            os.close(self.outside.pop(0))

    def _write_input(self, event: int) -> None:
        if event & (select.POLLERR | select.POLLHUP):
            os.close(self.outside.pop(0))
            return
        try:
            written = os.write(self.outside[0], self.pending)
        except BlockingIOError:
            return
        except BrokenPipeError:
            os.close(self.outside.pop(0))
            return
        self.pending = self.pending[written:]


def _room(descriptor: int) -> int:
    """How many bytes can be written to what poll(2) calls ready without a wait: a pipe may have no room for more."""
    return CHUNK if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF


def unread(descriptor_path: str) -> bytes:
    """The bytes in the pipe at /proc/PID/fd/N that nobody has read yet; they stay where they are.

    A container that runs on reads them there: were they taken out and put back, the supervisor's next ones could come
    before them.
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
    """Its next `size` bytes. Who has many pipes gets small ones, and may not enlarge them (pipe-user-pages-soft in
    pipe(7)), so that is tried only where they don't fit."""
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
