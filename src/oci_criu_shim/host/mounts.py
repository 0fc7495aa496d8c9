"""Read /proc/PID/mountinfo, and tell which of a container's mounts lead out of it."""

from __future__ import annotations

import errno
import os

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from typing import Any

    from oci_criu_shim.files import Document
    from oci_criu_shim.host.external import External


# mount(2)'s flags, by their names in mountinfo; a user namespace can't take off the first six.
LOCKED = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime")
UNFOLLOWED = "nosymfollow"  # CRIU 4.2 leaves it out (parse_mnt_flags() in criu/proc_parse.c)
FLAGS = dict(zip((*LOCKED, "relatime", UNFOLLOWED), (1, 2, 4, 8, 1024, 2048, 1 << 21, 256), strict=True))
LONGEST = 16 << 20  # characters of mountinfo: those of 100000 mounts, the kernel's limit, with usual names
LINKS = 40  # as many as the kernel follows
# What External calls mounts of these file systems.
KINDS = {"devtmpfs": "device", "cgroup": "cgroup", "cgroup2": "cgroup", "sysfs": "sysfs", "mqueue": "mqueue"}
# File systems that other nodes see, too: how their names in mountinfo begin, after "fuse." if they have that.
SHARED = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "dvs", "gfs2", "gluster", "gpfs", "lustre", "nfs", "ocfs2"),
    *("orangefs", "panfs", "smb", "virtiofs", "weka"),
)
IN_MEMORY = ("tmpfs", "ramfs")  # file systems that are gone with their machine
# File systems that only their machine sees, unless it serves them to others.
OWN = (*IN_MEMORY, "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "overlay", "aufs")
DELETED = "//deleted"  # the end of a root that was removed (prepend_path() in fs/d_path.c)


class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5)): `id` is fdinfo's mnt_id, `device` is "major:minor", `root` the
    mounted directory or file within its file system (another one may have that name by now), `point` the path that it
    is seen at."""

    def __init__(self, line: str) -> None:
        fields = line.split(" ")  # names have no space, and can have any other character
        separator = fields.index("-", 6)
        self.id = fields[0]
        self.parent = fields[1]  # the id of the one that it is mounted on
        self.device = fields[2]
        self.root = unescape(fields[3]).removesuffix(DELETED)
        self.is_removed = fields[3].endswith(DELETED)
        self.point = unescape(fields[4])
        self.options = fields[5].split(",")
        tags = dict(tag.partition(":")[::2] for tag in fields[6:separator])
        self.shared = tags.get("shared")  # the number of its peer group
        self.master = tags.get("master")  # that of the one that it is a slave of
        self.kind = fields[separator + 1]
        self.super_options = fields[separator + 3].split(",")

    @property
    def controllers(self) -> str:
        """The controllers of a version 1 control group mount, as "cpu,cpuacct"; else empty."""
        if self.kind != "cgroup":
            return ""
        return ",".join(o for o in self.super_options if o not in ("rw", "ro", "xattr"))


def unescape(text: str) -> str:
    """Return a name of mountinfo, which writes space, tab, newline and backslash in octal."""
    if "\\" not in text:
        return text
    import re  # it takes long to import, and a start needs none

    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def parse(text: str) -> list[Mount]:
    """Return the mounts in a mountinfo file's text."""
    return [Mount(line) for line in text.split("\n") if line]


def read(pid: int | str = "self") -> list[Mount]:
    """Return the mounts that process `pid` sees; ShimError if they are too many to look at."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        text = stream.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise ShimError(f"the mounts of process {pid} are too many: they take more than {LONGEST >> 20} MiB to name")
    return parse(text)


def is_shared(kind: str) -> bool:
    """Return whether other nodes see file systems of the type `kind`, by its name in mountinfo."""
    return kind.removeprefix("fuse.").startswith(SHARED)


def own(path: str) -> str:
    """Return the type of the file system of `path` if it is one that only this node sees; else an empty string."""
    found = deepest(os.path.realpath(path), read())
    return found.kind if found and found.kind in OWN else ""


def deepest(path: str, mounted: Iterable[Mount]) -> Mount | None:
    """Return the mount that holds `path`, which is absolute and without links; None if none does."""
    found = [m for m in mounted if is_below(path, m.point)]
    return max(reversed(found), key=lambda mount: len(mount.point), default=None)


def hidden(mounted: Iterable[Mount]) -> set[str]:
    """Return the ids of the mounts that another one is mounted on, or on a directory above them."""
    mounted = list(mounted)
    points = {mount.id: mount.point for mount in mounted}
    beside: dict[str, list[Mount]] = {}
    for mount in mounted:
        beside.setdefault(mount.parent, []).append(mount)
    below = {mount.parent for mount in mounted if points.get(mount.parent) == mount.point}
    aside = (
        m.id for group in beside.values() for m in group for o in group if m is not o and is_below(m.point, o.point)
    )
    return {*below, *aside}


def within(mount: Mount, others: Iterable[Mount]) -> Mount | None:
    """Return one of the `others` in whose files the root of `mount` lies, so that CRIU can bind it from there; None if
    none has it."""
    return next((m for m in others if m.device == mount.device and is_below(mount.root, m.root)), None)


def is_below(path: str, directory: str) -> bool:
    """Return whether `path` is `directory` or below it; both are absolute."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def external(container: Iterable[Mount], node: Iterable[Mount], inner: Collection[str] = ()) -> list[External]:
    """Return the container's mounts of file systems that belong to the node; ShimError if CRIU can't be told of one.

    Leave out those at the mount points `inner` that lie in the files of another one, or of the root: CRIU binds them
    from there.

    Those of kind "node" are on a tmpfs that is mounted nowhere. crun makes it for a container of root's that has a user
    namespace, and so does a restore of ours for a batch script that is not the job's (container/batch_script.py).
    """
    container = list(container)
    devices = {mount.device for mount in node}
    whole = {mount.device for mount in container if mount.root == "/"}
    outer = [mount for mount in container if mount.point not in inner]
    found = []
    for mount in container:
        if mount.point in inner and within(mount, outer):
            continue
        made = mount.kind == "tmpfs" and mount.device not in whole | devices
        if mount.point == "/" or not (made or mount.device in devices):
            continue
        _require_text(mount.point)
        kind = "node" if made else KINDS.get(mount.kind, "bind")
        entry: External = {"key": mount.point, "root": mount.root, "options": mount.options, "kind": kind}
        if kind == "cgroup":
            entry["controllers"] = mount.controllers
        found.append(entry)
    return found


def of_bare_task(found: Iterable[Mount]) -> list[External]:
    """Return all mounts of a bare task but the root and /proc, for CRIU to look into none: the node's files stay there,
    and what is in the task's own is kept otherwise (dump/own_files.py)."""
    points = {mount.point: mount for mount in found if mount.point not in ("/", "/proc")}
    for point in points:
        _require_text(point)
    rows = points.values()
    return [{"key": m.point, "root": m.root, "options": m.options, "kind": "bind"} for m in rows]


def _require_text(point: str) -> None:
    try:
        point.encode()
    except UnicodeEncodeError:
        said = f"CRIU can't be told of the mount at {os.fsencode(point)!r}, whose name is not UTF-8"
        raise ShimError(said, "mount it elsewhere") from None


def bind_source(key: str, mounts: Iterable[Document], bundle: str, rootfs: str) -> str | None:
    """Return the source of the bind mount at `key` by config.json's `mounts`; None if none fits.

    A mount below a recursive bind has its source below the bind's source.
    """
    best: tuple[int, str] | None = None
    for mount in filter(is_bind, mounts):
        point = resolve(rootfs, mount["destination"])
        if "source" in mount and is_below(key, point):
            source = os.path.normpath(os.path.join(bundle, mount["source"]) + key[len(point) :])
            if best is None or len(point) >= best[0]:
                best = (len(point), source)
    return best[1] if best else None


def make_point(base: str, name: str, is_directory: bool) -> None:
    """Make the mount point `name` below the directory `base`, and directories on the way, if it is missing.

    No link is followed, and no "..": images tell the name. OSError if it can't be made.
    """
    if os.path.exists(os.path.join(base, name.lstrip("/"))):
        return
    *directories, last = name.strip("/").split("/")
    if ".." in directories:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    here = os.open(base, os.O_PATH | os.O_DIRECTORY)
    try:
        for directory in directories:
            _make_directory(directory, here)
            inner = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inner
        if is_directory:
            os.mkdir(last, 0o755, dir_fd=here)
        else:
            os.close(os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=here))
    finally:
        os.close(here)


def _make_directory(name: str, where: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=where)
    except FileExistsError:
        pass


def node_source(kind: str, root: str, node: Iterable[Mount]) -> str | None:
    """Return the path of `root` in the node's only file system of type `kind`; None if the node has none."""
    for mount in node:
        if mount.kind == kind and mount.root == "/":
            return mount.point + root.rstrip("/")
    return None


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Return whether an entry of config.json's `mounts` is a bind mount (config.md, Mounts)."""
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options", []))


def faults_below(key: str, source: str, node: Iterable[Mount]) -> Iterator[ShimError]:
    """Yield a fault if a user's bind mount of `source` at `key` has mounts of the node below it.

    CRIU makes each mount by itself, and the kernel (has_locked_children() in fs/namespace.c) gives a user namespace
    such a directory only together with all the mounts below it.
    """
    prefix = os.path.realpath(source).rstrip("/") + "/"
    found = sorted({mount.point for mount in node if mount.point.startswith(prefix)})
    if found:
        yield ShimError(
            f"the bind mount at {key} has others below it, which a user's restore can't make: {' '.join(found[:4])}",
            "bind what is needed, each by itself: /sys/devices and /sys/class in place of /sys",
        )


def flags(options: Iterable[str]) -> int:
    """Return mount(2)'s flags for a mount's options in mountinfo."""
    return sum(FLAGS[option] for option in options if option in FLAGS)


def names(flags: int) -> list[str]:
    """Return the options of mountinfo for mount(2)'s flags."""
    return [name for name, flag in FLAGS.items() if flags & flag]


def locked(path: str, node: Iterable[Mount]) -> int:
    """Return the flags of the node's mount that holds `path`, as far as a user namespace can't take them off.

    See mount_namespaces(7).
    """
    holding = deepest(os.path.realpath(path), node)
    return flags(option for option in holding.options if option in LOCKED) if holding else 0


def resolve(rootfs: str, path: str) -> str:
    """Return `path` as the container sees it, with every symbolic link followed inside `rootfs`."""
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
