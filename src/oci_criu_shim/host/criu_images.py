"""Read CRIU's images, and change them.

pycriu presents an image whole, as JSON would have it (load, dump). If that takes too long, the entries are read one by
one as protobuf's messages, and a few fields by their bytes.
"""

from __future__ import annotations

import os
import socket
import struct

from oci_criu_shim.host import criu, inet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from oci_criu_shim.files import Document
    from oci_criu_shim.host.criu import Message

IMAGE_HEAD = 8  # bytes before an image's entries: two magic numbers
PE_PARENT = 1  # of an entry's flags (criu/include/pagemap.h)
UNREAD = "tcp-unread"  # ours: what waited at each of the ends of TCP that the manifest names, in their order
PAGEMAP = struct.pack("=2I", 0x54564319, 0x56084025)  # the head of a pagemap's image (criu/include/magic.h)
NO_PATHS = struct.pack("=2I", 0x55105940, 0x57004059)  # what irmap_cache() returns for none (criu/include/magic.h)


def load(path: str) -> Document:
    """Return CRIU's image file `path` as pycriu.images presents it."""
    images = criu.module("images")
    with open(path, "rb") as stream:
        image: Document = images.load(stream, pretty=False)
    return image


def dump(path: str, image: Document) -> None:
    """Write an image as load() returns it."""
    images = criu.module("images")
    with open(path, "wb") as stream:
        images.dump(image, stream)


def irmap_cache(paths: Mapping[tuple[int, int], str]) -> bytes:
    """Return an image of {(device, inode): path} for a dump to read."""
    entries = [{"dev": device, "inode": inode, "path": path} for (device, inode), path in paths.items()]
    data: bytes = criu.module("images").dumps({"magic": "IRMAP_CACHE", "entries": entries})
    return data


def prepare_pagemap() -> Message:
    """Import and return the type of pagemap()'s entries, which takes 80 ms."""
    return criu.module("images.pagemap_pb2").pagemap_entry


def pagemap(path: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (address, number of pages, whether the parent has them) of each run of pages in a pagemap's image.

    load() would take thirty times as long.
    """
    for number, found in enumerate(read_entries(path, prepare_pagemap())):
        if number:  # the first one says where the pages are
            yield found.vaddr, found.nr_pages or found.compat_nr_pages, bool(found.flags & PE_PARENT)


def pagemap_head(pages_id: int) -> bytes:
    """Return the beginning of an image whose pages are in pages-ID.img (CRIU's images/pagemap.proto)."""
    return PAGEMAP + _message(b"\x08" + _varint(pages_id))


def pagemap_entry(address: int, count: int, flags: int) -> bytes:
    """Return an entry for so many pages. pycriu would take ten times as long, and all is frozen meanwhile."""
    return _message(b"\x08" + _varint(address) + b"\x10" + _varint(count) + b"\x20" + _varint(flags))


def _message(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(found) + bytes([number])


def file_type() -> Message:
    """Import and return the type of the entries of criu.FILES."""
    return criu.module("images.fdinfo_pb2").file_entry


def inet_sockets(images: str) -> Iterator[Message]:
    """Yield the internet sockets in the images' directory (criu's images/sk-inet.proto)."""
    return (entry.isk for entry in read_entries(os.path.join(images, criu.FILES), file_type()) if entry.HasField("isk"))


def is_connection(sock: Message) -> bool:
    """Return whether an internet socket is an end of a TCP connection, perhaps of one that has ended."""
    return bool(sock.proto == socket.IPPROTO_TCP and sock.dst_port)


def local_address(sock: Message) -> bytes:
    """Return an internet socket's own address."""
    return inet.packed(sock.src_addr[: 1 if sock.family == socket.AF_INET else 4])


def stream_type() -> Message:
    """Import and return the type of the one entry of a TCP connection's image, which the queues follow."""
    return criu.module("images.tcp_stream_pb2").tcp_stream_entry


def read_entries(path: str, kind: Message) -> Iterator[Message]:
    """Yield the entries of an image, which are of one `kind` of message; behind the last one there may be other data.

    Whoever knows how many there are takes no more.
    """
    with open(path, "rb") as stream:
        data = stream.read()
    offset = IMAGE_HEAD
    while offset < len(data):
        begin = offset + 4
        offset = begin + int.from_bytes(data[offset:begin], "little")
        yield kind.FromString(data[begin:offset])


def write_entries(source: str, path: str, entries: Iterable[Message]) -> None:
    """Write an image of `entries`, of the same kind as the image `source`."""
    with open(source, "rb") as stream:
        head = stream.read(IMAGE_HEAD)
    with open(path, "wb") as stream:
        stream.write(head)
        for data in (entry.SerializeToString() for entry in entries):
            stream.write(len(data).to_bytes(4, "little") + data)


def seccomp(path: str) -> tuple[int, int]:
    """Return the mode of seccomp of the thread of an image core-*.img, and the number of its filter.

    load() would take many times as long.
    """
    thread = next(read_entries(path, criu.module("images.core_pb2").core_entry)).thread_core
    return int(thread.seccomp_mode), int(thread.seccomp_filter)


def names_deleted_files(directory: str) -> bool:
    """Return whether CRIU has given a third name to a file (create_link_remap() in criu/files-reg.c).

    It does so if the name by which the file is open was deleted, and the file has another one.
    """
    path = os.path.join(directory, "remap-fpath.img")
    return os.path.exists(path) and any(e.get("remap_type") in (None, "LINKED") for e in load(path)["entries"])


NO_ID = b"\xff\xff\xff\xff\x0f"  # in images: none of the user namespace's
OWNED_BY_NONE = b"\x10" + NO_ID + b"\x18" + NO_ID  # uid and gid of a file_perms_entry (CRIU's images/sk-unix.proto)
FIRST = IMAGE_HEAD + 4  # where the first entry begins, after its length


def own_deleted(directory: str, uid: int, gid: int) -> None:
    """Have deleted files and unlinked sockets belong to these numbers inside, if their owner has none.

    A restore could not give them to nobody. CRIU 4.2 doesn't even ask for the owner of an unlinked socket if it lacks
    CAP_NET_ADMIN (unix_resolve_name_old() in criu/sk-unix.c).
    """
    for name in os.listdir(directory):
        if name.startswith("ghost-file-"):
            _own_ghost(os.path.join(directory, name), _id(uid), _id(gid))
    with open(os.path.join(directory, criu.FILES), "r+b") as stream:
        found = stream.read()
        if OWNED_BY_NONE in found:
            stream.seek(0)
            stream.write(found.replace(OWNED_BY_NONE, b"\x10" + _id(uid) + b"\x18" + _id(gid)))


def _id(number: int) -> bytes:
    """Return a number as long as NO_ID (an overlong varint of protobuf)."""
    return bytes(number >> shift & 0x7F | (0x80 if shift < 28 else 0) for shift in range(0, 35, 7))


def _own_ghost(path: str, uid: bytes, gid: bytes) -> None:
    """Change the first fields of a ghost_file_entry, uid and gid (CRIU's images/ghost-file.proto)."""
    with open(path, "r+b") as stream:
        head = stream.read(FIRST + 12)
        uid_end = FIRST + 1 + next(n for n, byte in enumerate(head[FIRST + 1 :], 1) if byte < 0x80)
        ids = head[FIRST:uid_end].replace(NO_ID, uid) + head[uid_end:].replace(b"\x10" + NO_ID, b"\x10" + gid)
        stream.seek(FIRST)
        stream.write(ids)


def leave_groups(directory: str) -> None:
    """Have the images' processes stay in the control group that a restore starts in.

    CRIU moves them if their groups are not those of the CRIU that dumped (prepare_task_cgroup() in criu/cgroup.c).
    """
    path = os.path.join(directory, criu.INVENTORY)
    inventory = load(path)
    core = load(os.path.join(directory, "core-1.img"))["entries"][0]
    inventory["entries"][0]["root_cg_set"] = core["thread_core"]["cg_set"]
    dump(path, inventory)
