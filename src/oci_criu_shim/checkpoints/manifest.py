"""Types of manifest.json and of what is in it; schemas/manifest.json says the same to whatever reads it.

A key that is NotRequired is missing in manifests of older versions, or in those that restore/foreign.py makes for
checkpoints of other runtimes. There is nothing else here, and other modules import it under TYPE_CHECKING: importing
typing takes longer than most of this package.
"""

from typing import NotRequired, Required, TypedDict

from oci_criu_shim.host.attributes import Attributes
from oci_criu_shim.host.external import External
from oci_criu_shim.host.ids import IdMap

Clock = dict[str, int]  # {name in clocks.NAMES: nanoseconds}: the container's clocks when it was frozen


class Needs(TypedDict):
    """What a restore needs of its node (node_fit.needs())."""

    machine: str
    cpu: list[str]
    cgroup: int
    image: str
    page: NotRequired[int]  # bytes of the kernel's pages
    limits: NotRequired[dict[str, list[int]]]  # {name: [soft, hard]}, the highest that processes had; -1 for none


class Written(TypedDict):
    """A file that the container had open for writing (open_files.look())."""

    mount: str  # its mount point in the container
    name: str  # its path below that
    size: int
    inode: int
    others: NotRequired[bool]  # if it is appended to: whether somebody else did so last


class Read(TypedDict):
    """A file that the container had open for reading only, or mapped (open_files.read())."""

    mount: str  # as in Written
    name: str
    modified_ns: int  # st_mtime_ns of stat(2)


class End(TypedDict):
    """One end of a TCP connection both ends of which are the container's."""

    inode: int
    unread: int  # bytes that waited at it
    shut: bool  # whether it had shut the connection down for writing


class Closed(TypedDict):
    """TCP connections in the node's network (dump/connections.py): a restore closes them, or makes them anew."""

    named: list[str]  # some of those that a restore closes, as "python3 (pid 7) with 10.0.0.2:80"
    unread: list[int]  # the inodes of those among them that have ended, if not all was read
    failed: list[int]  # the inodes of others, which had failed before
    inner: NotRequired[list[list[End]]]  # both ends of each that is made anew
    unneeded: NotRequired[list[int]]  # the inodes of listening sockets that need no address of a node's


class Place(TypedDict, total=False):
    """Where a file stands that is read, and which it is."""

    start: int  # its offset at first
    file: list[int]  # inode, size, and time of its last change in nanoseconds


class Source(Place):
    """How far standard input was read (container/intake.py)."""

    read: Required[int]  # bytes, in all
    crc: Required[int]  # of these (zlib.crc32())
    head: Required[str]  # the first of these, in hexadecimal digits
    ended: Required[bool]


class Compressed(TypedDict):
    """A file that was compressed after the commit."""

    codec: str
    size: int  # bytes of the original
    frame: int  # bytes of the original in each frame


class Extra(TypedDict, total=False):
    """Keys that a stage adds: those of an increment, or of a checkpoint whose memory went to a page server."""

    version: int
    increment_of: int
    compressed: dict[str, Compressed]
    memory_elsewhere: bool


class Draft(TypedDict):
    """A manifest without checksums, as a dump makes it."""

    version: NotRequired[int]
    container: NotRequired[str]
    created: NotRequired[str]  # RFC 3339, UTC
    begun: NotRequired[str]  # when the container was first created
    node: NotRequired[str]
    kernel: NotRequired[str]
    criu: NotRequired[str]
    needs: NotRequired[Needs]
    reason: NotRequired[str]  # the trigger
    bytes: NotRequired[int]  # of all files
    increment_of: NotRequired[int]  # the number of its parent
    files: dict[str, int]  # {path below the checkpoint's directory: bytes}
    streams: list[str]  # where standard input, output and error led
    input: str  # what was read from standard input, and not by the container yet, in base64
    source: NotRequired[Source]
    clock: Clock | None  # None without a time namespace
    external: list[External]
    own_cgroup: NotRequired[bool]
    own_places: NotRequired[list[str]]  # directories that a bare task has for itself
    io_priority: NotRequired[int]  # of the init, for all threads that have none of their own
    personality: NotRequired[int]  # of the init
    threads: NotRequired[dict[str, Attributes]]  # {number inside: attributes} of threads that have any
    frozen_seconds: NotRequired[float]
    restarts: NotRequired[int]  # of the job, by then
    left_running: NotRequired[bool]
    memory_elsewhere: NotRequired[bool]
    written: NotRequired[list[Written]]
    read: NotRequired[list[Read]]
    network: NotRequired[str]
    closed: NotRequired[Closed]
    uid_map: IdMap
    gid_map: IdMap
    compressed: NotRequired[dict[str, Compressed]]


class Manifest(Draft):
    """The manifest of a committed checkpoint."""

    sha256: dict[str, list[str]]  # {file: checksums of its pieces} of the small files
    checksum: NotRequired[str]  # of all the rest of the document
