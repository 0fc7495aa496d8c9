"""Send a checkpoint to another node's memory while it is dumped: nothing of it is on a disk."""

from __future__ import annotations

import os
import select
import socket
import threading

from oci_criu_shim.checkpoints import codec, scratch
from oci_criu_shim.checkpoints.codec import Codec
from oci_criu_shim.checkpoints.committed import IMAGES, MANIFEST, PARENT, Checkpoint
from oci_criu_shim.checkpoints.stage import Stage
from oci_criu_shim.errors import ShimError, cause_of
from oci_criu_shim.transfer import stream
from oci_criu_shim.transfer.received import MEMORY
from oci_criu_shim.transfer.stream import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import NotRequired, TypedDict

    from oci_criu_shim.checkpoints.manifest import Manifest
    from oci_criu_shim.transfer.stream import Hello

    class Invitation(TypedDict):
        """Where a receiver listens, as it says itself."""

        node: str
        addresses: list[str]
        port: int
        token: str
        precopy: NotRequired[bool]  # whether memory may be sent while the program runs on


BACKLOG = 3  # frames that wait to be sent: from then on the network is what takes the time
WORTH = 0.9  # a frame that does not become smaller than this much of itself is sent as it is
EMPTY = bytes(stream.LARGEST_FRAME)
PATIENCE = 10.0  # seconds for each address
LAST_WORD = 60.0  # seconds until the receiver must have said that it has all


class Sender:
    """Sends one checkpoint to the receiver at `place`, its pages as the destination of dump/page_server.py.

    A frame is compressed if others wait to be sent: the slower the network, the more of them are.

    Raise ShimError if the receiver can't be reached, or refuses.
    """

    def __init__(self, place: Invitation, hello: Hello) -> None:
        self.connection = Connection(_connect(place), place["node"])
        self.lock = threading.Lock()
        self.waiting = 0
        self.sizes: dict[str, int] = {}  # {name: bytes} of images that were sent as they were made
        self.most = 0  # bytes of pages that may be sent, if that is bounded
        try:
            self.connection.send_line({**hello, "token": place["token"]})
            answer = self._answer()
        except BaseException:
            self.connection.close()
            raise
        codecs, room = answer.get("codecs"), answer.get("room")
        self.room = room if isinstance(room, int) else 0  # bytes that the receiver has, if it takes rounds
        self.codec = _codec(codecs if isinstance(codecs, list) else [])
        self._compress = self.codec.packer() if self.codec else None

    def pack(self, data: memoryview) -> bytes:
        """Make a message of pages. Threads share it."""
        with self.lock:
            is_backed_up = self.waiting >= BACKLOG
            self.waiting += 1
        raw = data.tobytes()
        if self.codec and self._compress and (is_backed_up or raw == EMPTY[: len(raw)]):
            packed = self._compress(raw)
            if len(packed) < WORTH * len(raw):
                return stream.message(stream.PACKED[self.codec.name], packed, len(raw))
        return stream.message(stream.RAW, raw)

    def open(self, name: str) -> SentFile:
        """Begin the image that CRIU calls `name`."""
        return SentFile(self, f"{IMAGES}/{name}")

    def end_round(self, directory: str) -> None:
        """Send the images in `directory`, too, and have all that was sent be the parent of what comes now."""
        for name in (f"{IMAGES}/{name}" for name in sorted(os.listdir(os.path.join(directory, IMAGES)))):
            self.send_file(directory, name)
            self.sizes[name] = os.stat(os.path.join(directory, name)).st_size
        self.send(stream.message(stream.ROUND, b""))
        self.sizes = {f"{IMAGES}/{PARENT}{name.removeprefix(IMAGES)}": size for name, size in self.sizes.items()}

    def begin_anew(self) -> None:
        """Have the receiver forget all that was sent."""
        self.send(stream.message(stream.ANEW, b""))
        self.sizes, self.most, self.waiting = {}, 0, 0

    def send(self, data: bytes) -> None:
        """Send a message, unless the receiver has failed."""
        if select.select([self.connection.socket], [], [], 0)[0]:
            self._answer()
        try:
            self.connection.send(data)
        except ShimError:
            self._last_words()
            raise

    def send_file(self, directory: str, name: str) -> None:
        """Send the file `name` of a checkpoint in `directory`."""
        self.send(stream.message(stream.NAME, name.encode()))
        with open(os.path.join(directory, name), "rb", buffering=0) as file:
            while data := file.read(stream.LARGEST_FRAME):
                self.send(stream.message(stream.RAW, data))

    def require_bounded(self) -> None:
        """Raise ShimError if more was sent than may be."""
        if self.most and sum(self.sizes.values()) > self.most:
            said = "it has written so much of its memory since that was sent that the other node has no room for it"
            raise ShimError(said, "--precopy=off sends it while the program is frozen, and once only")

    def end(self, directory: str) -> str:
        """Send the manifest in `directory`, and return where the receiver has the checkpoint."""
        with open(os.path.join(directory, MANIFEST), "rb") as file:
            self.send(stream.message(stream.END, file.read()))
        self.connection.socket.settimeout(LAST_WORD)  # or a receiver that is stopped would keep the program frozen
        return str(self._answer().get("path"))

    def give_up(self, why: str) -> None:
        """Tell the receiver that there will be no checkpoint."""
        try:
            self.connection.send(stream.message(stream.FAILURE, why.encode()))
        except ShimError:
            pass  # it is gone

    def close(self) -> None:
        """Hang up: what is not complete is none."""
        self.connection.close()

    def _answer(self) -> dict[str, object]:
        answer = self.connection.receive_line()
        if "error" in answer:
            raise ShimError(f"{self.connection.peer}: {answer['error']}", str(answer.get("hint", "")))
        return answer

    def _last_words(self) -> None:
        """Raise what the receiver has said before it hung up, if anything."""
        if select.select([self.connection.socket], [], [], 1)[0]:
            self._answer()


class SentFile:
    """A file of pages that `sender` sends."""

    def __init__(self, sender: Sender, name: str) -> None:
        self.sender = sender
        self.name = name
        sender.sizes[name] = 0
        sender.send(stream.message(stream.NAME, name.encode()))

    def add(self, frame: bytes) -> None:
        """Send the next message of pages."""
        self.sender.send(frame)
        with self.sender.lock:
            self.sender.waiting -= 1
        self.sender.sizes[self.name] += stream.HEAD.unpack_from(frame)[2]
        self.sender.require_bounded()

    def end(self) -> None:
        """Do nothing: the next name ends it."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


class Peer:
    """Another node's memory, as a place for the checkpoint that `sender` sends.

    `delivered` is told of it once that node has it, while all is frozen; if it raises an error, there is none.
    """

    directory = MEMORY  # of this node's, in which the few other files are

    def __init__(self, sender: Sender, delivered: Callable[[Checkpoint], None] = lambda _: None) -> None:
        self.sender = sender
        self.delivered = delivered

    def stage(self) -> PeerStage:
        """Return the stage of that checkpoint."""
        return PeerStage(self)

    def facts(self, sent: Checkpoint) -> dict[str, object]:
        """Return what the job's history has of it besides: nothing."""
        return {}


class PeerStage(Stage):
    """A checkpoint whose memory is sent as CRIU dumps it; the few other files are in this node's memory until then."""

    def __init__(self, peer: Peer) -> None:
        path = os.path.join(MEMORY, scratch.name())
        scratch.sweep(MEMORY)
        super().__init__(path, os.path.join(path, IMAGES))
        self.sender = self.target = peer.sender
        self.delivered = peer.delivered

    def sizes(self) -> dict[str, int]:
        """Return {path below the checkpoint's directory: bytes}, of what was sent, too."""
        return super().sizes() | self.sender.sizes

    def _local(self, names: Collection[str]) -> set[str]:
        return set(names) - set(self.sender.sizes)

    def _publish(self, manifest: Manifest) -> Checkpoint:
        """Send the rest; from then on the other node has the checkpoint."""
        for name in sorted(self._local(manifest["files"])):
            self.sender.send_file(self.path, name)
        sent = Checkpoint(self.sender.end(self.path), manifest)
        self.delivered(sent)
        return sent

    def _finish(self, committed: Checkpoint) -> None:
        """Leave it as it is: its files are not here."""


def _connect(place: Invitation) -> socket.socket:
    said = "it has no address"
    for address in place["addresses"]:
        try:
            found = socket.create_connection((address, place["port"]), PATIENCE)
        except OSError as error:
            said = f"{address}, port {place['port']}: {cause_of(error)}"
        else:
            found.settimeout(None)
            return found
    raise ShimError(f"{place['node']} can't be reached: {said}", "a firewall between nodes keeps jobs from migrating")


def _codec(names: Collection[object]) -> Codec | None:
    """Return the fastest codec that both ends have; None if there is none."""
    return next((found for name in codec.SUFFIXES if name in names and (found := Codec(name, 1)).is_there()), None)
