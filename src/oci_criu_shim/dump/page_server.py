"""Take memory from CRIU while it dumps, and write it compressed: no raw copy of it reaches the disk.

For CRIU this is a page server (page_server_serve() in its criu/page-xfer.c). It sends requests of a fixed size, with
the pages behind those that add some, and waits for an answer where it opens the memory of a process, and at the end.
What is written is what compressing a checkpoint makes of what CRIU itself would write (checkpoints/compression.py).
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from functools import cached_property, partial

from oci_criu_shim.checkpoints import codec, committed
from oci_criu_shim.checkpoints.codec import Packed
from oci_criu_shim.dump.probe import THREADS, Probe
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu_images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, TypeVar

    from oci_criu_shim.checkpoints.codec import Codec
    from oci_criu_shim.checkpoints.manifest import Compressed, Extra
    from oci_criu_shim.checkpoints.stage import Destination
    from oci_criu_shim.dump.known import Known

    Result = TypeVar("Result")

# Command and flags, number of pages, their address, and whose they are: struct page_server_iov.
REQUEST, REQUEST_BEFORE_4_2 = struct.Struct("=I4xQQQ"), struct.Struct("=IIQQ")
COMMAND_BITS, KIND_BITS = 16, 8
OPEN, HAS_PARENT, ADD = 4, 5, 6
CLOSE = 0x1023, 0x1024
NO_PARENT, NO_PARENT_OF_4_BYTES, DONE = b"\0", bytes(4), bytes(4)
PROCESS, SHARED = 1, 2  # kinds of memory
PAGEMAPS = {PROCESS: "pagemap-{}.img", SHARED: "pagemap-shmem-{}.img"}
FRAME = 1 << 20  # bytes: less memory than checkpoints/codec.py's, while the job may have little left
PRESENT = 1 << 2  # of a pagemap entry's flags (criu/include/pagemap.h): its pages follow


class Compressing:
    """A destination: files of the directory `images`, compressed by `codec_`."""

    def __init__(self, codec_: Codec, images: str) -> None:
        self.codec = codec_
        self.images = images

    @cached_property
    def pack(self) -> Callable[[memoryview], bytes]:
        """A function that makes a frame of pages; threads share it."""
        return self.codec.packer()

    def open(self, name: str) -> Packed:
        """Begin a file."""
        return Packed(os.path.join(self.images, name + self.codec.suffix))


class Sending:
    """Takes the memory of a container to `target` while it is dumped; pagemaps go to the directory `images`.

    What is `known` there is left out: the images are those of an increment.
    """

    def __init__(self, target: Destination, images: str, known: Known | None = None) -> None:
        self.target = target
        self.images = images
        self.known = known
        self.server: PageServer | None = None

    def takes(self, version: tuple[int, ...], connection: socket.socket) -> bool:
        """Return whether it takes memory from `connection` (client.dump())."""
        self.server = PageServer(self.images, self.target, connection, version, self.known)
        return True

    def about(self) -> Extra:
        """Return what the manifest says of it. Raise OSError or ShimError if not all was written."""
        self.sizes()
        return {}

    def sizes(self) -> dict[str, int]:
        """Return {CRIU's name of a file: bytes of pages}, once all of them were taken."""
        return self.server.finish() if self.server else {}

    def require(self) -> None:
        """Raise what made CRIU's dump fail, if that was here."""
        if self.server and self.server.failure:
            raise self.server.failure

    def stop(self) -> None:
        """End what still runs of it."""
        if self.server:
            self.server.stop()


class Packing(Sending):
    """Compresses the memory of the container whose init is `init` on its way to the directory `images`, if that is
    sooner there."""

    def __init__(self, codec_: Codec, init: int, images: str) -> None:
        super().__init__(Compressing(codec_, images), images)
        self.codec = codec_
        self.probe = Probe(codec_, init, images)

    def takes(self, version: tuple[int, ...], connection: socket.socket) -> bool:
        """Return whether it pays."""
        return self.probe.pays() and super().takes(version, connection)

    def about(self) -> Extra:
        """Return what the manifest says of the compressed files."""
        if not self.server:
            return {}
        packed: dict[str, Compressed] = {
            f"{committed.IMAGES}/{name}{self.codec.suffix}": {"codec": self.codec.name, "size": size, "frame": FRAME}
            for name, size in self.sizes().items()
        }
        return {"version": committed.COMPRESSED, "compressed": packed}

    def stop(self) -> None:
        """End what still runs of it."""
        self.probe.pays()
        super().stop()


class PageServer:
    """Takes what CRIU, of `version`, sends by `connection`: pagemaps go to the directory `images`, pages to `target`.

    Pages of a process's own that are `known` are left to the parent of these images.

    It does so in threads of its own until CRIU is done. If something can't be written, CRIU loses its server, and lets
    the container run on; `failure` says what it was.
    """

    def __init__(
        self,
        images: str,
        target: Destination,
        connection: socket.socket,
        version: tuple[int, ...],
        known: Known | None = None,
    ) -> None:
        import queue
        import threading

        self.images = images
        self.connection = connection
        self.request = REQUEST if version >= (4, 2) else REQUEST_BEFORE_4_2
        self.target = target
        self.known = known
        self.process: int | None = None  # whose own memory comes
        self.sizes: dict[str, int] = {}
        self.failure: Exception | None = None
        self.done = False
        self.pool = codec.Pool(THREADS)
        self.buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(2 * self.pool.count + 4):
            self.buffers.put(bytearray(FRAME))
        self.pages: Pages | None = None
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def finish(self) -> dict[str, int]:
        """Wait for the end; return {CRIU's name of a file: bytes of pages}; raise what kept it from being written."""
        self.thread.join()
        if self.failure:
            raise self.failure
        if not self.done:
            raise ShimError("CRIU has ended before it had sent all memory")
        return self.sizes

    def stop(self) -> None:
        """End the threads, and with them CRIU's dump if that is not done."""
        self._hang_up()
        self.thread.join()
        self.connection.close()

    def _serve(self) -> None:
        with self.pool:
            try:
                while self._answer():
                    pass
            except EOFError:
                pass  # CRIU has ended, and says itself why
            except Exception as error:  # whatever it is: CRIU would wait for ever
                self.fail(error)
            finally:
                self._end_pages()

    def fail(self, error: Exception) -> None:
        """Have CRIU's dump fail because of `error`, unless it does so already."""
        known = isinstance(error, (OSError, ShimError))
        self.failure = self.failure or (error if known else ShimError(f"memory could not be taken from CRIU: {error}"))
        self._hang_up()

    def _hang_up(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # CRIU is gone

    def _answer(self) -> bool:
        """Do what the next request asks for; return whether another one follows."""
        data = bytearray(self.request.size)
        self._read(memoryview(data))
        command, count, address, whose = self.request.unpack(data)
        command, flags = command & (1 << COMMAND_BITS) - 1, command >> COMMAND_BITS
        if command == OPEN:
            self._open(whose)
            self.connection.sendall(NO_PARENT)
        elif command == HAS_PARENT:
            self.connection.sendall(NO_PARENT_OF_4_BYTES)
        elif command == ADD:
            self._add(address, count, flags)
        elif command in CLOSE:
            self._end_pages()
            if not self.failure:
                self.done = True
                self.connection.sendall(DONE)
            return False
        else:
            raise ShimError(f"CRIU has asked its page server for {command}, which is not known")
        return True

    def _read(self, view: memoryview) -> None:
        while view:
            size = self.connection.recv_into(view, flags=socket.MSG_WAITALL)
            if not size:
                raise EOFError
            view = view[size:]

    def _open(self, whose: int) -> None:
        self._end_pages()
        kind, number = whose & (1 << KIND_BITS) - 1, whose >> KIND_BITS
        if kind not in PAGEMAPS:
            raise ShimError(f"CRIU has sent memory of kind {kind}, which is not known")
        self.process = number if kind == PROCESS else None
        pages_id = len(self.sizes) + 1
        self.pages = Pages(self, os.path.join(self.images, PAGEMAPS[kind].format(number)), pages_id)
        self.sizes[self.pages.name] = 0

    def _add(self, address: int, count: int, flags: int) -> None:
        if self.pages is None:
            raise ShimError("CRIU has sent memory of no process")
        left = count * mmap.PAGESIZE if flags & PRESENT else 0
        if left and self.known and self.process is not None:
            return self._compare(self.known, self.process, address, left, flags)
        self.pages.note(address, count, flags)
        while left:
            room = self.pages.room(left)
            self._read(room)
            left -= len(room)

    def _compare(self, known: Known, pid: int, address: int, size: int, flags: int) -> None:
        """Take so many bytes, and leave out what is known."""
        assert self.pages
        buffer = self.buffers.get()
        for begin in range(address, address + size, FRAME):
            data = memoryview(buffer)[: min(FRAME, address + size - begin)]
            self._read(data)
            for first, last, is_known in known.take(pid, begin, data):
                count = (last - first) // mmap.PAGESIZE
                self.pages.note(begin + first, count, criu_images.PE_PARENT if is_known else flags)
                if not is_known:
                    self.pages.fill(data[first:last])
        self.buffers.put(buffer)

    def _end_pages(self) -> None:
        if self.pages:
            self.sizes[self.pages.name] = self.pages.end()
            self.pages = None


class Pages:
    """The memory of one process that `server` writes: the image of its pagemap, and its pages.

    The pages are gathered in frames. Threads of the server's pack these, and one of its own writes them.
    """

    def __init__(self, server: PageServer, pagemap: str, pages_id: int) -> None:
        import queue
        import threading

        self.server = server
        self.name = f"pages-{pages_id}.img"
        self.size = 0
        self.buffer: bytearray | None = None
        self.used = 0
        self.frames: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
        self.pagemap: BinaryIO = open(pagemap, "xb")
        self.pagemap.write(criu_images.pagemap_head(pages_id))
        self.file = server.target.open(self.name)
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def note(self, address: int, count: int, flags: int) -> None:
        """Add an entry to the pagemap."""
        self._try(lambda: self.pagemap.write(criu_images.pagemap_entry(address, count, flags)))

    def room(self, most: int) -> memoryview:
        """Return where the next pages are to be put: `most` bytes, or as many of them as are left in the frame."""
        if self.buffer is None or self.used == FRAME:
            self._send()
            self.buffer = self.server.buffers.get()
        begin = self.used
        self.used = min(FRAME, begin + most)
        return memoryview(self.buffer)[begin : self.used]

    def fill(self, data: memoryview) -> None:
        """Add the next pages."""
        while data:
            room = self.room(len(data))
            room[:], data = data[: len(room)], data[len(room) :]

    def end(self) -> int:
        """Have all of it written; return the number of bytes that the pages have."""
        self._send()
        self.frames.put(None)
        self.thread.join()
        self._try(self.file.end)
        for stream in self.pagemap, self.file:  # whatever failed: on NFS, what is open can't be removed
            try:
                stream.close()
            except OSError as error:
                self.server.fail(error)
        return self.size

    def _send(self) -> None:
        if self.buffer is not None:
            self.size += self.used
            self.frames.put((self.buffer, self.used))
            self.buffer, self.used = None, 0

    def _write(self) -> None:
        frames = iter(self.frames.get, None)
        try:
            for frame in self.server.pool.results(self._pack, frames):
                self._try(partial(self.file.add, frame))
        except Exception as error:  # no thread could be started, say
            self.server.fail(error)
            for buffer, _ in frames:  # or whoever fills them would wait for ever
                self.server.buffers.put(buffer)

    def _pack(self, filled: tuple[bytearray, int]) -> bytes:
        buffer, size = filled
        packed = self._try(lambda: self.server.target.pack(memoryview(buffer)[:size]))
        self.server.buffers.put(buffer)
        return packed or b""

    def _try(self, work: Callable[[], Result]) -> Result | None:
        """Return what `work` returns; None if it fails, or anything has failed already."""
        try:
            return None if self.server.failure else work()
        except Exception as error:  # as well as OSError, the errors of codecs' libraries
            self.server.fail(error)
            return None
