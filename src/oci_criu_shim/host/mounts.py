"""What /proc/PID/mountinfo says, and which of a container's mounts lead out of it (pure functions)."""

from __future__ import annotations

import errno
import os
import re

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# mount(2)'s flags, by their names in mountinfo; the first six can't be taken off in a user namespace.
LOCKED = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime")
FLAGS = dict(zip((*LOCKED, "relatime"), (1, 2, 4, 8, 1024, 2048, 1 << 21), strict=True))
LONGEST = 16 << 20  # characters of mountinfo: those of 100000 mounts, the kernel's limit, with usual names
LINKS = 40  # as many as the kernel follows
ESCAPED = re.compile(r"\\([0-7]{3})")


class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5)): `id` is fdinfo's mnt_id, `device` is "major:minor", `root` the
    mounted directory or file within its file system, `point` where it is seen."""

    def __init__(self, line: str) -> None:
        fields = line.split(" ")  # names have no space, and can have any other character
        separator = fields.index("-", 6)
        self.id = fields[0]
        self.device = fields[2]
        self.root = unescape(fields[3])
        self.point = unescape(fields[4])
        self.options = fields[5].split(",")
        tags = dict(tag.partition(":")[::2] for tag in fields[6:separator])
        self.shared = tags.get("shared")  # the number of its peer group
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
    return [Mount(line) for line in text.split("\n") if line]


def read(pid: int | str = "self") -> list[Mount]:
    """The mounts that process `pid` sees; ShimError where they are too many to look at."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        text = stream.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise ShimError(f"the mounts of process {pid} are too many: they take more than {LONGEST >> 20} MiB to name")
    return parse(text)


def deepest(path: str, mounted: Iterable[Mount]) -> Mount | None:
    """The mount that `path`, absolute and without links, is on: the last of those nearest to it."""
    found = [m for m in mounted if path == m.point or path.startswith(m.point.rstrip("/") + "/")]
    return max(reversed(found), key=lambda mount: len(mount.point), default=None)


def external(container: Iterable[Mount], node: Iterable[Mount]) -> list[dict[str, Any]]:
    """The container's mounts of file systems that are the node's: CRIU must be told of each.

    `key` is the mount point in the container; `kind` says where its source is at a restore: "device"
    in the node's /dev, "cgroup" in the node's control groups, "sysfs" and "mqueue" (of a network or ipc
    namespace that is the node's) where the node has those, "bind" in config.json, "node" in its linux.devices: crun
    makes these in a tmpfs that is mounted nowhere, where the container has a user namespace and is root's. So does a
    restore of ours with a batch script that is not the job's (startup.py). ShimError where CRIU can't be told of one.
    """
    container = list(container)
    devices = {mount.device for mount in node}
    whole = {mount.device for mount in container if mount.root == "/"}
    found = []
    for mount in container:
        made = mount.kind == "tmpfs" and mount.device not in whole | devices
        if mount.point == "/" or not (made or mount.device in devices):
            continue
        _require_text(mount.point)
        entry: dict[str, Any] = {"key": mount.point, "root": mount.root, "options": mount.options}
        if made:
            entry["kind"] = "node"
        elif mount.kind == "devtmpfs":
            entry["kind"] = "device"
        elif mount.kind in ("cgroup", "cgroup2"):
            entry["kind"] = "cgroup"
            entry["controllers"] = mount.controllers
        elif mount.kind in ("sysfs", "mqueue"):
            entry["kind"] = mount.kind
        else:
            entry["kind"] = "bind"
        found.append(entry)
    return found


def _require_text(point: str) -> None:
    try:
        point.encode()
    except UnicodeEncodeError:
        said = f"CRIU can't be told of the mount at {os.fsencode(point)!r}, whose name is not UTF-8"
        raise ShimError(said, "mount it elsewhere") from None


def bind_source(key: str, mounts: Iterable[Mapping[str, Any]], bundle: str, rootfs: str) -> str | None:
    """Where the bind mount at `key` comes from by config.json's `mounts`; None where none fits.

    A mount below a recursive bind has its source below the bind's source.
    """
    best: tuple[int, str] | None = None
    for mount in filter(is_bind, mounts):
        point = resolve(rootfs, mount["destination"])
        if "source" in mount and (key == point or key.startswith(point.rstrip("/") + "/")):
            source = os.path.normpath(os.path.join(bundle, mount["source"]) + key[len(point) :])
            if best is None or len(point) >= best[0]:
                best = (len(point), source)
    return best[1] if best else None


def make_points(mounts: Iterable[Mapping[str, Any]], bundle: str, rootfs: str) -> None:
    """Make the places of config.json's `mounts` that are missing in the root file system: another runtime made
    them when it created the container, and an image that is restored elsewhere has none."""
    points: list[str] = []
    for mount in mounts:
        point = resolve(rootfs, mount["destination"])
        place = rootfs + point
        below = any(point.startswith(other.rstrip("/") + "/") for other in points)
        points.append(point)
        if below or os.path.exists(place):
            continue
        if is_bind(mount) and not os.path.isdir(os.path.join(bundle, mount["source"])):
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT, 0o644))
        else:
            os.makedirs(place, mode=0o755)


def node_source(kind: str, root: str, node: Iterable[Mount]) -> str | None:
    """Where the node has `root` of its only file system of type `kind`; None where it has none."""
    for mount in node:
        if mount.kind == kind and mount.root == "/":
            return mount.point + root.rstrip("/")
    return None


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Whether an entry of config.json's `mounts` is a bind mount (config.md, Mounts)."""
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options", []))


def require_none_below(key: str, source: str, node: Iterable[Mount]) -> None:
    """Raise ShimError where a user's bind mount of `source` at `key` has mounts of the node's below it.

    CRIU makes each mount by itself, and the kernel (has_locked_children() in fs/namespace.c) lets a
    user namespace have such a directory with all of its mounts only.
    """
    prefix = os.path.realpath(source).rstrip("/") + "/"
    found = sorted({mount.point for mount in node if mount.point.startswith(prefix)})
    if found:
        raise ShimError(
            f"the bind mount at {key} has others below it, which a user's restore can't make: {' '.join(found[:4])}",
            "bind what is needed, each by itself: /sys/devices and /sys/class in place of /sys",
        )


def flags(options: Iterable[str]) -> int:
    """mount(2)'s flags for a mount's options in mountinfo."""
    return sum(FLAGS[option] for option in options if option in FLAGS)


def names(flags: int) -> list[str]:
    """The options of these flags."""
    return [name for name, flag in FLAGS.items() if flags & flag]


def locked(path: str, node: Iterable[Mount]) -> int:
    """The flags of the node's mount that holds `path` which a user namespace can't take off (mount_namespaces(7))."""
    holding = deepest(os.path.realpath(path), node)
    return flags(option for option in holding.options if option in LOCKED) if holding else 0


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
