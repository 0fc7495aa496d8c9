"""Know how far a container's input was read, so that a restart goes on there.

A task that Slurm starts again gets its standard input from the beginning: a file, or all that srun was given. So a
checkpoint notes how much of it was taken in all, and has what the container had not read of that.

The supervisor and whoever checkpoints the container are two processes. The supervisor keeps a note, a file without a
name, of what it has taken and not passed on yet. It locks it while it writes to the container, and a dump has the lock
from before the container is frozen until it ends or runs on: so the note fits what is in the container's pipe, and
nothing more is taken meanwhile. The supervisor never waits for the lock.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from oci_criu_shim import files
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.checkpoints.manifest import Place, Source

CHUNK = 1 << 16
HEAD = 64  # bytes by which another input is known at once, not only when it was skipped
RETRY_MS = 20  # until the lock is tried again
PATIENCE = 5.0  # seconds for a supervisor to let go of the lock, which it has for microseconds


class Intake:
    """What was taken from our standard input.

    `source` says how far it was read, `pending` is what is still to be passed on of it. The next `skip` bytes were read
    in an earlier run. `tell` is called with a line if that can't be so.
    """

    def __init__(
        self, source: Source | None = None, pending: bytes = b"", tell: Callable[[str], None] | None = None
    ) -> None:
        self.source = source or _fresh()
        self.pending = pending
        self.tell = tell or (lambda _: None)
        self.skip = 0
        self.skipped = 0  # the checksum of what was skipped
        self.seek: int | None = None  # where start() has it go on
        self.remark = ""  # what start() tells
        self.held = False
        self.note = os.memfd_create("input")
        self._write_note()

    def start(self) -> None:
        """Go on where the container was; only now, since an older checkpoint may be tried if one fails."""
        if self.seek is not None:
            os.lseek(0, self.seek, os.SEEK_SET)
        if self.remark:
            self.tell(self.remark)

    @property
    def wants_more(self) -> bool:
        """Whether read() is to be called once there is something."""
        return not self.source["ended"] and (not self.pending or self.skip > 0)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to pass on any more."""
        return self.source["ended"] and not self.pending

    def is_held(self) -> bool:
        """Return whether a checkpoint keeps us from copying; if so, ask again in RETRY_MS."""
        if self.held:
            self._note()
        return self.held

    def read(self) -> None:
        """Take what there is from our standard input, if it is still wanted: the container may just have closed it."""
        if not self.wants_more or not self._lock():
            return
        fcntl.flock(self.note, fcntl.LOCK_UN)  # read(2) may wait, if somebody else reads there, too
        try:
            data = os.read(0, min(self.skip or CHUNK, CHUNK))
        except BlockingIOError:
            return  # whoever shares it was faster
        except OSError as error:  # EIO: our terminal is gone
            if _kind() == stat.S_IFREG:
                self.tell(f"standard input, {_name()}, ends here, since it can't be read: {error.strerror}")
            data = b""
        if not data:
            self._end()
        elif self.skip:
            self._pass_over(data)
        else:
            self._take(data)
        self._note()

    def pass_on(self, descriptor: int) -> None:
        """Write what is pending, as far as it goes without waiting. Raise OSError if nobody will read it."""
        if not self._lock():
            return
        try:
            self.pending = self.pending[os.write(descriptor, self.pending) :]
        except BlockingIOError:
            pass
        finally:
            self._release()

    def end(self) -> None:
        """Take no more, since nobody in the container reads it."""
        self.pending, self.skip = b"", 0
        self._end()
        self._note()

    def _end(self) -> None:
        if self.skip:
            done = self.source["read"] - self.skip
            self.tell(f"standard input ended after {done} bytes, of which {self.source['read']} were read before")
        self.skip = 0
        self.source["ended"] = True

    def _take(self, data: bytes) -> None:
        source = self.source
        if source["read"] < HEAD:
            source["head"] += data[: HEAD - source["read"]].hex()
        source["read"] += len(data)
        source["crc"] = _checksum(data, source["crc"])
        self.pending += data

    def _pass_over(self, data: bytes) -> None:
        head = bytes.fromhex(self.source["head"])
        if self.skip == self.source["read"] and not head.startswith(data[: len(head)]):
            self.tell("standard input is not what the container read before: it is passed on from its beginning")
            self.skip, self.source = 0, _fresh()
            self._take(data)
            return
        self.skip -= len(data)
        self.skipped = _checksum(data, self.skipped)
        if not self.skip and self.skipped != self.source["crc"]:
            self.source["crc"] = self.skipped
            self.tell(
                f"standard input is not what it was: the first {self.source['read']} bytes, which were read before, "
                "have changed; what comes after them is passed on"
            )

    def _note(self) -> None:
        if self._lock():
            self._release()

    def _lock(self) -> bool:
        self.held = not _try_lock(self.note)
        return not self.held

    def _release(self) -> None:
        self._write_note()
        fcntl.flock(self.note, fcntl.LOCK_UN)

    def _write_note(self) -> None:
        text = files.to_json(self.source).encode() + b"\n" + self.pending
        os.pwrite(self.note, text, 0)
        os.ftruncate(self.note, len(text))


def resume(source: Source | None, pending: bytes, again: bool, tell: Callable[[str], None]) -> Intake:
    """Return the intake of a container that goes on from a checkpoint with this `source` and unread input, `pending`.

    `again` says whether our standard input begins again, as in each run of a task. If not, what it gives is new; but a
    file that is the same one, and stands where it stood at first, is read on from where the container was.

    Raise ShimError if it is a file that can't be what the container has read.
    """
    if source is None:  # a checkpoint of an earlier version
        return Intake(pending=pending)
    intake = Intake({**source}, pending, tell)
    if source["ended"]:
        return intake
    kind = _kind()
    if kind == stat.S_IFREG:
        _resume_file(intake, again)
    elif again and kind in (stat.S_IFIFO, stat.S_IFSOCK):
        intake.skip = source["read"]
    elif again and not (kind and os.isatty(0)):
        intake.remark = f"standard input is {_name()} now: what the container read before is not there to go on with"
    return intake


def _resume_file(intake: Intake, again: bool) -> None:
    place, source = _place(), intake.source
    start = source.get("start", place["start"])
    same = place["file"] == source.get("file") or _checksum_of_file(start, source["read"]) == source["crc"]
    if same and (again or start == place["start"]):
        intake.seek = start + source["read"]
        intake.source = {**source, "start": start, "file": place["file"]}
    elif again:
        raise ShimError(
            f"standard input, {_name()}, is not what the container has read {source['read']} bytes of",
            "go on with the same input, unchanged as far as it was read",
        )
    else:
        intake.remark = f"standard input, {_name()}, is not what the container read before: it is read as it stands"
        intake.source = _fresh()


class Hold:
    """Has the supervisor copy no input in its `with` block.

    `path` leads to the supervisor's note; None if nobody copies input. Raise ShimError if it does not let go.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.note: int | None = None

    def __enter__(self) -> Hold:
        try:
            self.note = os.open(self.path, os.O_RDWR | os.O_CLOEXEC) if self.path else None
        except FileNotFoundError:  # it was killed
            return self
        limit = time.monotonic() + PATIENCE
        while self.note is not None and not _try_lock(self.note):
            if time.monotonic() > limit:
                self.__exit__()
                raise ShimError("the container's supervisor does not let go of its input", "try again")
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        if self.note is not None:
            fcntl.flock(self.note, fcntl.LOCK_UN)  # whoever was forked meanwhile has it, too
            os.close(self.note)
            self.note = None

    def taken(self) -> tuple[Source | None, bytes]:
        """Return what the note says: the source, and what is pending; None without a note."""
        if self.note is None:
            return None, b""
        text, _, pending = os.pread(self.note, os.fstat(self.note).st_size, 0).partition(b"\n")
        source: Source = files.parse_json(text.decode())
        return source, pending


def _try_lock(note: int) -> bool:
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fresh() -> Source:
    """Return the source of a container that has read nothing."""
    source: Source = {"read": 0, "crc": 0, "head": "", "ended": False}
    return {**source, **_place()} if _kind() == stat.S_IFREG else source


def _place() -> Place:
    """Return where the file stands that is our standard input, and what tells it from others."""
    status = os.fstat(0)
    return {"start": os.lseek(0, 0, os.SEEK_CUR), "file": [status.st_ino, status.st_size, status.st_mtime_ns]}


def _kind() -> int:
    try:
        return stat.S_IFMT(os.fstat(0).st_mode)
    except OSError:  # it is closed
        return 0


def _name() -> str:
    return os.readlink("/proc/self/fd/0") if _kind() else "closed"


def _checksum(data: bytes, before: int) -> int:
    import zlib

    return zlib.crc32(data, before)


def _checksum_of_file(start: int, size: int) -> int | None:
    """Return the checksum of `size` bytes of the file; None if it has fewer."""
    found, end = 0, start + size
    while start < end:
        data = os.pread(0, min(end - start, 16 * CHUNK), start)
        if not data:
            return None
        found = _checksum(data, found)
        start += len(data)
    return found
