"""Look at a running container before anything is frozen: each process once, and nothing twice."""

from __future__ import annotations

import os
from functools import cached_property

from oci_criu_shim.container import batch_script
from oci_criu_shim.dump.proc import Process, first_message, inet_socket, read
from oci_criu_shim.host import inet, mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.dump.proc import Descriptor
    from oci_criu_shim.host.external import External
    from oci_criu_shim.host.mounts import Mount


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

    @cached_property
    def node(self) -> list[Mount]:
        """The node's mounts."""
        return mounts.read()


class Survey(Subject):
    """A running container, whose init is `pid`.

    `preserved` are the targets of the descriptors of --preserve-fds. A `shell_job` may have its caller's terminal.
    It `runs_on` when its checkpoint is taken, or ends by that. Root may ask for a dump that `keeps_connections`, a user
    for one that `closes_connections`.
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
        closes_connections: bool = False,
    ) -> None:
        super().__init__(bundle, own_group)
        self.pid = pid
        self.preserved = preserved
        self.shell_job = shell_job
        self.runs_on = runs_on
        self.keeps_connections = keeps_connections
        self.closes_connections = closes_connections

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
    def apart(self) -> list[Process]:
        """Its processes in mount namespaces of their own."""
        return [each for each in self.processes if each.namespace("mnt") not in ("", self.init.namespace("mnt"))]

    @cached_property
    def mounts_apart(self) -> list[tuple[Process, list[Mount]]]:
        """The mounts of these namespaces, each with the first process that is in it."""
        seen_by = {each.namespace("mnt"): each for each in reversed(self.apart)}
        return [(each, mounts.read(each.pid)) for each in seen_by.values()]

    @cached_property
    def external(self) -> list[External]:
        """Its mounts of file systems that belong to the node; of a bare task's, those that it has not covered."""
        found = mounts.external(self.mounts, self.node, self.inner)
        if not self.bundle.is_bare:
            return found
        seen, devices = {m.point: m.device for m in self.mounts}, {mount.device for mount in self.node}
        return [entry for entry in found if seen[entry["key"]] in devices]

    @cached_property
    def inner(self) -> dict[str, str]:
        """{mount point: source} of binds that programs have made of files that the container has elsewhere: CRIU makes
        them from there.

        Mounts of hooks are no different, and a restore's hooks make them again: if there are any, there are none. A
        restore of a bare task makes no mounts.
        """
        if self.bundle.is_bare:
            return {}
        known = {batch_script.point(self.bundle), *self.bundle.mount_points, *self.bundle.masked}
        found = [entry["key"] for entry in mounts.external(self.mounts, self.node) if entry["kind"] == "bind"]
        others = {key: self.bundle.source(key) for key in found if key not in known}
        made = {key for key, source in others.items() if source is None or self.is_other(key, source)}
        outer = [mount for mount in self.mounts if mount.point not in made]
        holders = {m.point: (m, mounts.within(m, outer)) for m in self.mounts if m.point in made and self._is_whole(m)}
        sources = {point: self._inside(mount, holder) for point, (mount, holder) in holders.items() if holder}
        return {} if self.bundle.hooks else {point: source for point, source in sources.items() if source}

    def is_masked(self, point: str) -> bool:
        """Return whether the backend has covered a directory by an empty one, as linux.maskedPaths says."""
        try:
            return point in self.bundle.masked and not os.listdir(self.path(point))
        except (NotADirectoryError, PermissionError):
            return False

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
    def closes(self) -> bool:
        """Whether a restore closes its TCP connections: the network is the node's, and nobody has forbidden it."""
        return self.closes_connections and self.is_users and self.shares("net")

    @cached_property
    def sockets(self) -> list[tuple[Process, inet.Socket]]:
        """Its internet sockets, each with a process that has it."""
        return [(descriptor.process, sock) for descriptor, sock in self.open_sockets]

    @cached_property
    def open_sockets(self) -> list[tuple[Descriptor, inet.Socket]]:
        """Its internet sockets, each with a descriptor of it."""
        others = (each for each in self._sockets if not each.protocol.startswith("UNIX"))
        found = ((each, inet_socket(each)) for each in others)
        return [(descriptor, sock) for descriptor, sock in found if sock]

    @cached_property
    def messages(self) -> list[tuple[Process, int, str]]:
        """(process, length, sender) of the first message that waits in a Unix socket, if it has messages.

        The sender is empty if it has no name. Streams are another protocol to the kernel since Linux 5.15.
        """
        found = ((each.process, first_message(each)) for each in self._sockets if each.protocol == "UNIX")
        return [(holder, *message) for holder, message in found if message]

    @cached_property
    def _sockets(self) -> list[Descriptor]:
        """Its sockets, each once."""
        found = {each.link: each for holder in self.processes for each in holder.descriptors if each.is_socket}
        return list(found.values())

    def path(self, inside: str) -> str:
        """Return a path on the node for an absolute one in the container; links in it may lead elsewhere."""
        return f"/proc/{self.pid}/root{inside}"

    def source(self, inside: str) -> str | None:
        """Return the path on the node that a restore finds a path of the container at.

        It is None on the container's own file systems, whose files CRIU keeps, and if config.json names no source.
        """
        mount = mounts.deepest(inside, self.mounts)
        if mount is None or mount.point == "/":
            return self.bundle.rootfs.rstrip("/") + inside
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
