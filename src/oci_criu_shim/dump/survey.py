"""Look at a running container before anything is frozen: each process once, and nothing twice.

Its processes come and go meanwhile. What has ended has nothing: no descriptors, and an empty status.
"""

from __future__ import annotations

import errno
import os
import re
from functools import cached_property

from oci_criu_shim.container import batch_script
from oci_criu_shim.host import inet, linux, mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.host.external import External
    from oci_criu_shim.host.mounts import Mount

# Errors of what is gone. The files of a process that is about to end, and has no memory any more, are root's; one that
# runs and may not be looked into is refused before anything else is asked of it.
GONE = (errno.ENOENT, errno.ESRCH, errno.EACCES)
DELETED = " (deleted)"  # how the kernel ends the path of a file that has lost the name it was opened by
MAPPED = re.compile(r"^\S+ \S+ \S+ (\S+) \d+ +(/.*)$", re.MULTILINE)  # a line of maps: device and path
CHUNK = 1 << 16
DEVICE = " /dev/"
ODDLY = re.compile(r"^\S+ \S+ \S+ (\S+) \d+ +(/dev/.*|/.* \(deleted\))$", re.MULTILINE)
SIZES = ("VmSize", "VmLib", "VmExe")
NAMESPACES = ("user", "pid", "pid_for_children", "mnt", "net", "ipc", "uts", "cgroup", "time", "time_for_children")


class Subject:
    """What is looked at: a container of `bundle` on this node, started or not.

    It has a control group of its own if `own_group`.
    """

    def __init__(self, bundle: Bundle, own_group: bool = False) -> None:
        self.bundle = bundle
        self.own_group = own_group

    @property
    def is_users(self) -> bool:
        """Whether it is an ordinary user's."""
        return os.geteuid() != 0

    @property
    def file(self) -> str:
        """The path of its config.json."""
        return f"{self.bundle.path}/config.json"

    @cached_property
    def node(self) -> list[Mount]:
        """The node's mounts."""
        return mounts.read()


class Survey(Subject):
    """A running container, whose init is `pid`.

    `preserved` are the targets of the descriptors of --preserve-fds. A `shell_job` may have its caller's terminal.
    It `runs_on` when its checkpoint is taken, or ends by that. Root may ask for a dump that `keeps_connections`.
    """

    def __init__(
        self,
        pid: int,
        bundle: Bundle,
        own_group: bool = False,
        preserved: Sequence[str] = (),
        shell_job: bool = False,
        runs_on: bool = False,
        keeps_connections: bool = False,
    ) -> None:
        super().__init__(bundle, own_group)
        self.pid = pid
        self.preserved = preserved
        self.shell_job = shell_job
        self.runs_on = runs_on
        self.keeps_connections = keeps_connections

    @cached_property
    def processes(self) -> list[Process]:
        """Its processes; the first is its init."""
        return [Process(pid) for pid in process.tree(self.pid)]

    @cached_property
    def leaders(self) -> list[Process]:
        """Its processes, of each family one: the others have the same files mapped."""
        return list({each.family or each.pid: each for each in reversed(self.processes)}.values())

    @property
    def init(self) -> Process:
        """Its first process."""
        return self.processes[0]

    @cached_property
    def mounts(self) -> list[Mount]:
        """The mounts that its init sees."""
        return mounts.read(self.pid)

    @cached_property
    def external(self) -> list[External]:
        """Its mounts of file systems that belong to the node."""
        return mounts.external(self.mounts, self.node, self.inner)

    @cached_property
    def inner(self) -> dict[str, str]:
        """{mount point: source} of binds that programs have made of files that the container has elsewhere: CRIU makes
        them from there.

        Mounts of hooks are no different, and a restore's hooks make them again: if there are any, there are none.
        """
        known = {batch_script.point(self.bundle), *self.bundle.mount_points}
        found = [entry["key"] for entry in mounts.external(self.mounts, self.node) if entry["kind"] == "bind"]
        others = {key: self.bundle.source(key) for key in found if key not in known}
        made = {key for key, source in others.items() if source is None or self.is_other(key, source)}
        outer = [mount for mount in self.mounts if mount.point not in made]
        holders = {m.point: (m, mounts.within(m, outer)) for m in self.mounts if m.point in made and self._is_whole(m)}
        sources = {point: self._inside(mount, holder) for point, (mount, holder) in holders.items() if holder}
        return {} if self.bundle.hooks else {point: source for point, source in sources.items() if source}

    def _is_whole(self, mount: Mount) -> bool:
        """Return whether nothing is lost if what is mounted is made anew: a directory is empty once it is removed."""
        return not mount.is_removed or os.path.isdir(self.path(mount.point))

    def _inside(self, mount: Mount, holder: Mount) -> str | None:
        """Return the source of a `mount` in the files of the `holder`, which config.json names."""
        base = self.bundle.rootfs if holder.point == "/" else self.bundle.source(holder.point)
        return base and base.rstrip("/") + mount.root[len(holder.root.rstrip("/")) :]

    def shares(self, name: str) -> bool:
        """Return whether its init's namespace of that name is the node's."""
        return process.shares(self.pid, name)

    @cached_property
    def keeps_inner(self) -> bool:
        """Whether the dump keeps TCP connections between its processes: it has the rights of a user's own network."""
        return self.is_users and not self.shares("net")

    @cached_property
    def forgets_ended(self) -> bool:
        """Whether the dump can't read what is left of TCP connections that have ended: the network is the node's."""
        return self.is_users and self.shares("net")

    @cached_property
    def sockets(self) -> list[tuple[Process, inet.Socket]]:
        """Its internet sockets, each with a process that has it."""
        by_inode = {each.link: each for holder in self.processes for each in holder.descriptors if each.is_socket}
        others = (each for each in by_inode.values() if not each.protocol.startswith("UNIX"))
        found = ((each.process, _inet_socket(each)) for each in others)
        return [(holder, sock) for holder, sock in found if sock]

    def path(self, inside: str) -> str:
        """Return a path on the node for an absolute one in the container; links in it may lead elsewhere."""
        return f"/proc/{self.pid}/root{inside}"

    def source(self, inside: str) -> str | None:
        """Return the path on the node that a restore finds a path of the container at.

        It is None on the container's own file systems, whose files CRIU keeps, and if config.json names no source.
        """
        mount = mounts.deepest(inside, self.mounts)
        if mount is None or mount.point == "/":
            return self.bundle.rootfs + inside
        source = self.inner.get(mount.point) or self.binds.get(mount.point)
        return source and source.rstrip("/") + inside[len(mount.point.rstrip("/")) :]

    @cached_property
    def binds(self) -> dict[str, str | None]:
        """{mount point: source by config.json} of its bind mounts of the node's files."""
        return {entry["key"]: self.bundle.source(entry["key"]) for entry in self.external if entry["kind"] == "bind"}

    def is_other(self, point: str, source: str) -> bool:
        """Return whether the bind mount at `point` is of another file or directory than its `source` is now.

        A file system that other nodes see may have been mounted again meanwhile, with another device number.
        """
        try:
            seen, wanted = os.stat(self.path(point)), os.stat(source)
        except PermissionError:
            return False
        except OSError:
            return True  # ESTALE, of what another node has removed
        may_be_again = any(mounts.is_shared(mount.kind) for mount in self.mounts if mount.point == point)
        return seen.st_ino != wanted.st_ino or (seen.st_dev != wanted.st_dev and not may_be_again)

    @cached_property
    def _ids(self) -> list[list[tuple[int, int]]]:
        """The ranges (first, number) of users and of groups of the node's that its user namespace has."""
        found = []
        for kind in ("uid", "gid"):
            lines = [line.split() for line in read(f"/proc/{self.pid}/{kind}_map").splitlines()]
            found.append([(int(outside), int(size)) for _, outside, size in lines])
        return found

    def has_ids(self, found: os.stat_result) -> bool:
        """Return whether a file's owner and group are in its user namespace, whose root may then do anything to it."""
        pairs = zip(self._ids, (found.st_uid, found.st_gid), strict=True)
        return all(any(first <= number < first + size for first, size in ranges) for ranges, number in pairs)


class Process:
    """One of the container's processes."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.path = f"/proc/{pid}"

    def __str__(self) -> str:
        """Return what a user may know it by."""
        return f"process {self.pid} ({' '.join(self.status.get('Name', ['?']))})"

    @cached_property
    def status(self) -> Status:
        """Its status; empty if it has ended."""
        return Status(read(f"{self.path}/status"))

    @property
    def state(self) -> str:
        """The letter of its state; empty if it has ended."""
        return self.status.get("State", [""])[0]

    @cached_property
    def stat(self) -> list[str]:
        """The fields of its stat from the state on (proc_pid_stat(5)); none if it has ended."""
        return read(f"{self.path}/stat").rpartition(")")[2].split()

    @cached_property
    def _numbers(self) -> list[str] | None:
        """Its descriptors' numbers; None if it may not be looked into, and is not about to end."""
        try:
            return os.listdir(f"{self.path}/fd")
        except PermissionError:
            return None if Status(read(f"{self.path}/status")).get("VmSize") else []
        except OSError as error:
            if error.errno not in GONE:
                raise
            return []

    @property
    def is_closed(self) -> bool:
        """Whether it may not be looked into, although it is of the same user."""
        return self._numbers is None

    @cached_property
    def namespaces(self) -> dict[str, str]:
        """{kind: name} of its namespaces, as "net": "net:[4026531840]"; empty names of those that it has none of."""
        return {kind: self.namespace(kind) for kind in NAMESPACES}

    def namespace(self, kind: str) -> str:
        """Return the name of one of its namespaces; an empty one if it has none of that kind."""
        return self._link(f"ns/{kind}")

    @cached_property
    def places(self) -> dict[str, str]:
        """{kind: path} of its working directory, root directory and program."""
        return {kind: self._link(kind) for kind in ("cwd", "root", "exe")}

    def _link(self, name: str) -> str:
        try:
            return os.readlink(f"{self.path}/{name}")
        except OSError as error:
            if error.errno not in GONE:
                raise
            return ""

    @cached_property
    def maps(self) -> str:
        """Its mappings (proc_pid_maps(5))."""
        return read(f"{self.path}/maps")

    @cached_property
    def mapped(self) -> set[tuple[str, str]]:
        """(device, path) of what it has mapped; the device is that of mountinfo."""
        return _mapped(MAPPED, self.maps)

    @cached_property
    def mapped_oddly(self) -> set[tuple[str, str]]:
        """Those of `mapped` that have no name any more, or may be devices: there are few."""
        return _mapped(ODDLY, self.maps) if DELETED in self.maps or DEVICE in self.maps else set()

    @property
    def family(self) -> tuple[str, ...]:
        """What processes have in common that were forked from one another and have mapped nothing since.

        Where their stack begins is told by chance once a program starts. It is empty if the process has ended.
        """
        sizes = [size for name in SIZES for size in self.status.get(name, [])]
        return (self.places["exe"], *self.stat[25:26], *sizes) if self.stat else ()

    @cached_property
    def threads(self) -> list[int]:
        """The numbers of its threads."""
        if self.status.get("Threads", ["1"]) == ["1"]:
            return [self.pid]
        try:
            return [int(number) for number in os.listdir(f"{self.path}/task")]
        except OSError as error:
            if error.errno not in GONE:
                raise
            return []

    @cached_property
    def descriptors(self) -> list[Descriptor]:
        """Its open descriptors."""
        return list(self._descriptors())

    def _descriptors(self) -> Iterator[Descriptor]:
        for number in self._numbers or ():
            try:
                yield Descriptor(self, number)
            except OSError as error:
                if error.errno not in GONE:
                    raise


class Status:
    """The text of /proc/PID/status (proc_pid_status(5)), of which little is asked for."""

    def __init__(self, text: str) -> None:
        self.text = f"\n{text}"

    def get(self, name: str, default: list[str] | None = None) -> list[str]:
        """Return the words of a field."""
        begin = self.text.find(f"\n{name}:")
        return self.text[begin : self.text.find("\n", begin + 1)].split()[1:] if begin >= 0 else default or []


def _mapped(pattern: re.Pattern[str], text: str) -> set[tuple[str, str]]:
    found = set(pattern.findall(text))
    return {(":".join(str(int(number, 16)) for number in device.split(":")), path) for device, path in found}


class Descriptor:
    """An open descriptor of `process`; `link` is where it leads (proc_pid_fd(5))."""

    def __init__(self, process: Process, number: str) -> None:
        self.process = process
        self.number = int(number)
        self.path = f"{process.path}/fd/{number}"
        self.link = os.readlink(self.path)
        self.is_socket = self.link.startswith("socket:[")

    @cached_property
    def stat(self) -> os.stat_result | None:
        """What it refers to; None if it was closed."""
        try:
            return os.stat(self.path)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return None

    @cached_property
    def protocol(self) -> str:
        """The kernel's name of a socket's protocol, as "TCP" (sockfs_xattr_get() in net/socket.c); empty if closed."""
        try:
            return os.getxattr(self.path, "system.sockprotoname").rstrip(b"\0").decode()
        except OSError as error:
            if error.errno not in (*GONE, errno.EOPNOTSUPP, errno.ENODATA):
                raise
            return ""

    @cached_property
    def info(self) -> dict[str, str]:
        """The fields of its fdinfo (proc_pid_fdinfo(5)), of those that come more than once the last."""
        return dict(line.partition(":\t")[::2] for line in self.info_lines)

    @cached_property
    def info_lines(self) -> list[str]:
        """The lines of its fdinfo; none if it was closed."""
        return read(f"{self.process.path}/fdinfo/{self.number}").splitlines()


def _inet_socket(descriptor: Descriptor) -> inet.Socket | None:
    """Return an internet socket; None for any other one, or one that was closed.

    The kernel's tables in /proc take long to read, and have nothing of connections that have ended.
    """
    import socket

    try:
        pidfd = os.pidfd_open(descriptor.process.pid)
        try:
            sock = socket.socket(fileno=linux.duplicate(pidfd, descriptor.number))
        finally:
            os.close(pidfd)
    except OSError as error:
        if error.errno not in (*GONE, errno.EBADF, errno.ENOTSOCK, errno.EPERM):
            raise
        return None  # or nobody may look into the process: CRIU will say what it is
    with sock:
        return inet.Socket(sock) if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def read(path: str) -> str:
    """Return the text of a file in /proc; none if what it tells of is gone.

    There are many of them: open() would take longer than the kernel.
    """
    parts = []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(descriptor, CHUNK):
                parts.append(part)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in GONE:
            raise
    return b"".join(parts).decode(errors="replace")
