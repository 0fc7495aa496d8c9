"""What /proc/PID/mountinfo says, and which of a container's mounts lead out of it (pure functions)."""

from __future__ import annotations

import errno
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

LINKS = 40  # as many as the kernel follows
ESCAPED = re.compile(r"\\([0-7]{3})")


class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5)): `device` is "major:minor", `root` the mounted
    directory or file within its file system, `point` where it is seen."""

    def __init__(self, line: str) -> None:
        fields = line.split()
        separator = fields.index("-")
        self.device = fields[2]
        self.root = unescape(fields[3])
        self.point = unescape(fields[4])
        self.options = fields[5].split(",")
        self.kind = fields[separator + 1]
        self.super_options = fields[separator + 3].split(",")

    @property
    def controllers(self) -> str:
        """Of a version 1 control group mount: its controllers, as "cpu,cpuacct"; else empty."""
        if self.kind != "cgroup":
            return ""
        return ",".join(o for o in self.super_options if o not in ("rw", "ro", "xattr"))


def unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash in octal."""
    return ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def parse(text: str) -> list[Mount]:
    """The mounts of a mountinfo file's text."""
    return [Mount(line) for line in text.splitlines()]


def read(pid: int | str = "self") -> list[Mount]:
    """The mounts that process `pid` sees."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        return parse(stream.read())


def external(container: Iterable[Mount], node: Iterable[Mount]) -> list[dict[str, Any]]:
    """The container's mounts of file systems that are the node's: CRIU must be told of each.

    `key` is the mount point in the container; `kind` says where its source is at a restore:
    "device" in the node's /dev, "cgroup" in the node's control groups, "bind" in config.json.
    """
    devices = {mount.device for mount in node}
    found = []
    for mount in container:
        if mount.point == "/" or mount.device not in devices:
            continue
        entry: dict[str, Any] = {"key": mount.point, "root": mount.root, "readonly": "ro" in mount.options}
        if mount.kind == "devtmpfs":
            entry["kind"] = "device"
        elif mount.kind in ("cgroup", "cgroup2"):
            entry["kind"] = "cgroup"
            entry["controllers"] = mount.controllers
        else:
            entry["kind"] = "bind"
        found.append(entry)
    return found


def bind_source(key: str, mounts: Iterable[Mapping[str, Any]], bundle: str, rootfs: str) -> str | None:
    """Where the bind mount at `key` comes from by config.json's `mounts`; None where none fits.

    A mount below a recursive bind has its source below the bind's source.
    """
    best: tuple[int, str] | None = None
    for mount in mounts:
        point = resolve(rootfs, mount["destination"])
        if "source" in mount and (key == point or key.startswith(point.rstrip("/") + "/")):
            source = os.path.normpath(os.path.join(bundle, mount["source"]) + key[len(point) :])
            if best is None or len(point) >= best[0]:
                best = (len(point), source)
    return best[1] if best else None


def resolve(rootfs: str, path: str) -> str:
    """`path` as the container sees it, with every symbolic link followed inside of `rootfs`."""
    done: list[str] = []
    rest = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while rest:
        part = rest.pop()
        if part == "..":
            done = done[:-1]
            continue
        try:
            target = os.readlink(os.path.join(rootfs, *done, part))
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        done = [] if target.startswith("/") else done
        rest += [name for name in reversed(target.split("/")) if name not in ("", ".")]
    return "/" + "/".join(done)
