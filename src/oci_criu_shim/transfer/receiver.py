"""Receive a checkpoint into this node's memory."""

from __future__ import annotations

import hmac
import os
import queue
import secrets
import socket
import threading
from collections import deque

from oci_criu_shim import files
from oci_criu_shim.checkpoints import codec, committed
from oci_criu_shim.checkpoints.codec import Codec, Pool
from oci_criu_shim.checkpoints.committed import IMAGES, MANIFEST, PARENT
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.transfer import received, stream
from oci_criu_shim.transfer.stream import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO

    from oci_criu_shim.transfer.stream import Hello

GREETING_SECONDS = 10.0  # in which whoever connects must have said who they are
PATIENCE = 120.0  # seconds for the sender to come
STRANGERS = 64  # connections at a time of which that isn't known
SPARE = 1.05  # times the memory must be free


class Receiver:
    """Listens for whoever has the `token`, and receives one checkpoint from them.

    `accept` looks at what they say first, and raises ShimError if the checkpoint can't be taken. `made` is told of the
    directory that it gets.
    """

    def __init__(self, accept: Callable[[Hello], None], made: Callable[[str], None] = lambda _: None) -> None:
        self.accept = accept
        self.made = made
        self.token = secrets.token_hex(16)
        self.listener = _listen()
        self.port: int = self.listener.getsockname()[1]
        self.known: queue.SimpleQueue[tuple[Connection, Hello]] = queue.SimpleQueue()
        self.strangers = threading.BoundedSemaphore(STRANGERS)
        self.connection: Connection | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def bytes(self) -> int:
        """How many bytes have come so far."""
        return self.connection.bytes if self.connection else 0

    def receive(self) -> tuple[str, Hello]:
        """Wait for a checkpoint, and return its path and whose it is. Raise ShimError if it could not be received."""
        try:
            self.connection, hello = self.known.get(timeout=PATIENCE)
        except queue.Empty:
            raise ShimError(f"nobody has sent anything for {PATIENCE:.0f} s") from None
        try:
            return self._receive(self.connection, hello), hello
        except (OSError, ValueError, ShimError) as error:
            failure = error if isinstance(error, ShimError) else ShimError(line_of(error))
            self._refuse(self.connection, failure)
            raise failure from None
        finally:
            self.connection.close()

    def _listen(self) -> None:
        while True:
            self.strangers.acquire()
            try:
                connected, address = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(connected, address[0]), daemon=True).start()

    def _greet(self, connected: socket.socket, address: str) -> None:
        connection = Connection(connected, address)
        try:
            connected.settimeout(GREETING_SECONDS)
            said = connection.receive_line()
            if hmac.compare_digest(str(said.get("token")).encode(), self.token.encode()):
                connected.settimeout(None)
                connection.peer = str(said["node"])
                self.known.put((connection, said))  # type: ignore[arg-type]  # whoever has the token speaks our language
                return
        except (ShimError, KeyError):
            pass
        finally:
            self.strangers.release()
        connection.close()

    def _receive(self, connection: Connection, hello: Hello) -> str:
        self.accept(hello)
        received.require_room(int(SPARE * hello["bytes"]))
        codecs = [name for name in codec.SUFFIXES if Codec(name, 0).is_there()]
        unpackers = {stream.PACKED[name]: Codec(name, 0).unpacker() for name in codecs}
        connection.send_line({"codecs": codecs, "room": received.room()})
        path = received.make(hello["directory"], hello["task"], int(hello["seq"]))
        try:
            self.made(os.path.dirname(path))
            manifest = _Files(connection, path, unpackers).receive()
            files.write_atomically(os.path.join(path, MANIFEST), manifest)
            committed.read(path)
        except BaseException:
            received.remove(path)
            raise
        try:
            connection.send_line({"path": path})
        except ShimError:  # but if this process is ended just now, the sender may rely on it already
            received.remove(path)
            raise
        return path

    def _refuse(self, connection: Connection, error: ShimError) -> None:
        """Tell the sender why; it may be in the midst of sending, and must not lose that by a reset."""
        try:
            connection.send_line({"error": str(error), "hint": error.hint})
            connection.socket.shutdown(socket.SHUT_WR)
            connection.socket.settimeout(1)
            while connection.socket.recv(1 << 20):
                pass
        except (ShimError, OSError):
            pass  # it is gone


class _Files:
    """The files of a checkpoint that come by `connection`, and are put below `path`."""

    def __init__(self, connection: Connection, path: str, unpackers: dict[int, Callable[[bytes, int], bytes]]) -> None:
        self.connection = connection
        self.path = path
        self.images = os.path.join(path, IMAGES)
        self.unpackers = unpackers
        self.manifest = b""
        self.opened: deque[FileIO] = deque()  # in the order in which they have come

    def receive(self) -> bytes:
        """Receive all of them; return the manifest, which comes last."""
        with Pool() as pool:
            while not self.manifest:
                last = self._receive_files(pool)
                if last == stream.ROUND:
                    self._lower()
                elif last == stream.ANEW:
                    files.remove_tree(self.images)
                    os.mkdir(self.images, mode=0o700)
        return self.manifest

    def _receive_files(self, pool: Pool) -> int:
        """Receive files until a message of another kind; return that."""
        self.last = stream.NAME
        try:
            for file in pool.results(self._write, self._frames()):
                while self.opened[0] is not file:
                    self.opened.popleft().close()
        finally:
            while self.opened:
                self.opened.popleft().close()
        return self.last

    def _frames(self) -> Iterator[tuple[int, bytearray, int, FileIO, int]]:
        """Yield each frame: its kind, its data, the original's size, the file and where in it the original belongs."""
        offset = 0
        while True:
            self.last, data, size = self.connection.receive_message()
            if self.last == stream.FAILURE:
                raise ShimError(data.decode(errors="replace"))
            if self.last == stream.END:
                self.manifest = bytes(data)
            if self.last in (stream.END, stream.ROUND, stream.ANEW):
                return
            if self.last == stream.NAME:
                self._open(data.decode())
                offset = 0
            elif not self.opened:
                raise ShimError("the sender has sent what is in no file")
            else:
                yield self.last, data, size, self.opened[-1], offset
                offset += size

    def _open(self, name: str) -> None:
        if not committed.has_place(name):
            raise ShimError(f"{name!r} has no place in a checkpoint")
        self.opened.append(open(os.path.join(self.path, name), "xb", buffering=0))

    def _lower(self) -> None:
        """Make the images that have come the parent of those that will come."""
        aside = os.path.join(self.path, PARENT)
        os.rename(self.images, aside)
        os.mkdir(self.images, mode=0o700)
        os.rename(aside, os.path.join(self.images, PARENT))

    def _write(self, frame: tuple[int, bytearray, int, FileIO, int]) -> FileIO:
        kind, packed, size, file, offset = frame
        data = memoryview(packed if kind == stream.RAW else self.unpackers[kind](bytes(packed), size))
        while data:
            written = os.pwrite(file.fileno(), data, offset)
            data, offset = data[written:], offset + written
        return file


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
