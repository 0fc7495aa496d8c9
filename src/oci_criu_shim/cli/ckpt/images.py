"""Read from CRIU's images what is in their container."""

from __future__ import annotations

import base64
import os
import re

from oci_criu_shim.host import criu_images, inet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.cli.ckpt.documents import Contents, DumpedProcess, Mounted, OpenFile
    from oci_criu_shim.files import Document

PAGE = os.sysconf("SC_PAGE_SIZE")
SOCKETS = ("INETSK", "UNIXSK", "PACKETSK", "NETLINKSK")
PROTOCOLS = {6: "tcp", 17: "udp", 136: "udplite"}
# {kind: the keys of a file's name in its entry of files.img}
NAMES = {"REG": ("reg", "name"), "EXT": ("ext", "id"), "TTY": ("tty", "tty_info_id"), "MEMFD": ("memfd", "inode_id")}


def describe(directory: str) -> Contents:
    """Return what the images in `directory` say."""
    tree = _entries(directory, "pstree")
    processes = [_process(directory, entry) for entry in tree]
    known = {(entry["type"], entry["id"]): entry for entry in _entries(directory, "files")}
    descriptors = [found for entry in tree for found in _descriptors(directory, int(entry["pid"]), known)]
    return {
        "memory": sum(process["memory"] for process in processes),
        "processes": processes,
        "files": [found for found in descriptors if found["kind"] not in SOCKETS],
        "sockets": [found for found in descriptors if found["kind"] in SOCKETS],
        "mounts": _mounts(directory),
    }


def _entries(directory: str, name: str) -> list[Document]:
    """Return the entries of the image `name`; none if CRIU did not need that image."""
    path = os.path.join(directory, f"{name}.img")
    if not os.path.exists(path):
        return []
    entries: list[Document] = criu_images.load(path)["entries"]
    return entries


def _process(directory: str, entry: Document) -> DumpedProcess:
    pid = int(entry["pid"])
    core = next(iter(_entries(directory, f"core-{pid}")), {})
    return {
        "pid": pid,
        "ppid": int(entry["ppid"]),
        "command": str(core.get("tc", {}).get("comm", "")),
        "threads": len(entry["threads"]),
        "memory": sum(map(_bytes, _entries(directory, f"pagemap-{pid}"))),
    }


def _bytes(entry: Document) -> int:
    """Return the size of a run of pages; 0 for a pagemap's head. CRIU before 4.0 had 32 bits for the number of
    pages."""
    return int(entry.get("nr_pages") or entry.get("compat_nr_pages", 0)) * PAGE


def _descriptors(directory: str, pid: int, known: Mapping[tuple[str, int], Document]) -> list[OpenFile]:
    found: list[OpenFile] = []
    for ids in _entries(directory, f"ids-{pid}"):
        for entry in _entries(directory, f"fdinfo-{ids['files_id']}"):
            kind = str(entry["type"])
            file = known.get((kind, entry["id"]), {})
            found.append({"pid": pid, "fd": int(entry["fd"]), "kind": kind, "name": _name(kind, file)})
    return sorted(found, key=lambda file: file["fd"])


def _name(kind: str, file: Document) -> str:
    if kind in ("PIPE", "FIFO"):
        return f"pipe:[{file.get(kind.lower(), {}).get('pipe_id', '')}]"
    if kind == "INETSK":
        return _inet(file["isk"])
    if kind == "UNIXSK":
        return base64.b64decode(file["usk"]["name"]).rstrip(b"\0").replace(b"\0", b"@").decode(errors="replace")
    field, name = NAMES.get(kind, ("", ""))
    return str(file.get(field, {}).get(name, ""))


def _inet(entry: Document) -> str:
    """Return a socket's addresses: `tcp 10.0.0.1:80 listening`, `udp [::1]:53` or `tcp 10.0.0.1:40000 to
    10.0.0.2:80`."""
    source = inet.text(inet.packed(entry["src_addr"]), entry["src_port"])
    text = f"{PROTOCOLS.get(entry['proto'], entry['proto'])} {source}"
    if entry["dst_port"]:
        return f"{text} to {inet.text(inet.packed(entry['dst_addr']), entry['dst_port'])}"
    return f"{text} listening" if entry["proto"] == 6 and entry["state"] == inet.LISTEN else text


def _mounts(directory: str) -> list[Mounted]:
    names = [name for name in os.listdir(directory) if re.fullmatch(r"mountpoints-\d+\.img", name)]
    entries = [entry for name in names for entry in _entries(directory, name.removesuffix(".img"))]
    found: list[Mounted] = [
        {"mountpoint": str(entry["mountpoint"]), "source": str(entry["source"]), "root": str(entry["root"])}
        for entry in entries
    ]
    return sorted(found, key=lambda mount: mount["mountpoint"])
