"""The form in which a checkpoint goes from one node to another: messages on a TCP connection.

The sender begins with a line of JSON, a Hello; a line of JSON answers it, a Reply. Then come messages: the name of a
file, its contents in frames, the next name and so on, and at the end the manifest, which another Reply follows. If
the receiver fails, that Reply comes at any time; if the sender does, it says so in a message. A program that runs on is
sent in rounds: after each, a message says that what comes next is an increment of what has come, or that all of that
was in vain.
"""

from __future__ import annotations

import json
import socket
import struct
import zlib

from oci_criu_shim.errors import ShimError, cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NotRequired, TypedDict

    from oci_criu_shim.checkpoints.manifest import Needs

    class Hello(TypedDict):
        """What the sender says first."""

        token: str  # by which the receiver knows it
        task: str  # `<job>/<step>.<task>`
        directory: str  # the job's checkpoint directory
        required: str  # the nodes that its user requires
        seq: int  # the number that the checkpoint gets
        bytes: int  # of memory that the program has now
        node: str
        criu: str  # its version
        needs: Needs

    class Reply(TypedDict):
        """What the receiver says. An error comes alone, with its hint."""

        codecs: NotRequired[list[str]]  # that it can unpack: keys of codec.SUFFIXES
        room: NotRequired[int]  # bytes of memory that it has for images; a receiver that knows no rounds says none
        path: NotRequired[str]  # where the complete checkpoint is
        error: NotRequired[str]
        hint: NotRequired[str]


# Kind, bytes that follow, bytes of the original, and the checksum (CRC-32) of those that follow.
HEAD = struct.Struct("!BIII")
NAME, RAW, ZSTD, LZ4, END, FAILURE, ROUND, ANEW = 1, 2, 3, 4, 5, 6, 7, 8
PACKED = {"zstd": ZSTD, "lz4": LZ4}
LARGEST_LINE = 1 << 20
LARGEST_FRAME = 1 << 22
# Bytes of each kind; what could not be compressed is a little larger than the original.
LARGEST = {
    **{NAME: 1 << 12, RAW: 1 << 22, ZSTD: 1 << 23, LZ4: 1 << 23},
    **{END: 1 << 28, FAILURE: 1 << 16, ROUND: 0, ANEW: 0},
}
SILENT_SECONDS = 15  # until an end is taken for lost


def message(kind: int, data: bytes, size: int = 0) -> bytes:
    """Return a message; `size` is that of the original, if `data` was packed."""
    return HEAD.pack(kind, len(data), size or len(data), zlib.crc32(data)) + data


class Connection:
    """One end of a connection: `peer` is the other end's node, for messages.

    Raise ShimError if the connection breaks: if the other end is gone, that is known after SILENT_SECONDS.
    """

    def __init__(self, connected: socket.socket, peer: str) -> None:
        self.socket = connected
        self.peer = peer
        self.bytes = 0  # sent or received so far
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_SECONDS // 3)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT_SECONDS // 5)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise self._broken(cause_of(error)) from None
        self.bytes += len(data)

    def send_line(self, document: Mapping[str, object]) -> None:
        """Send a line of JSON."""
        self.send(json.dumps(document).encode() + b"\n")

    def receive(self, size: int) -> bytearray:
        """Return exactly so many bytes."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self.socket.recv_into(view, flags=socket.MSG_WAITALL)
            except OSError as error:
                raise self._broken(cause_of(error)) from None
            if not count:
                raise self._broken("it has hung up")
            view = view[count:]
        self.bytes += size
        return data

    def receive_line(self) -> dict[str, object]:
        """Return a JSON object that came as a line."""
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self.receive(1)
            if len(line) > LARGEST_LINE:
                raise self._broken("it has sent what is no line")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._broken("it has sent what is no object")
        return found

    def receive_message(self) -> tuple[int, bytearray, int]:
        """Return the kind of the next message, its data, and the size of the original; the data is whole."""
        kind, length, size, checksum = HEAD.unpack(self.receive(HEAD.size))
        if kind not in LARGEST or length > LARGEST[kind] or size > max(length, LARGEST_FRAME):
            raise self._broken("it has sent what is no message")
        data = self.receive(length)
        if zlib.crc32(data) != checksum:
            raise self._broken("what it has sent was damaged on its way")
        return kind, data, size

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _broken(self, why: str) -> ShimError:
        return ShimError(f"the connection to {self.peer} is broken: {why}")
