"""Look at a running container before anything is frozen: each process once, and nothing twice.

Its processes come and go meanwhile. What has ended has nothing: no descriptors, and an empty status.
"""

from __future__ import annotations

import errno
import os
from functools import cached_property

from oci_criu_shim.host import mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.host.external import External
    from oci_criu_shim.host.mounts import Mount

GONE = (errno.ENOENT, errno.ESRCH)


class Place:
    """A container of `bundle` on this node, started or not. It may have a control group of its `own_group`."""

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


class Survey(Place):
    """A running container, whose init is `pid`.

    `preserved` are the targets of the descriptors of --preserve-fds. A `shell_job` may have its caller's terminal.
    """

    def __init__(
        self,
        pid: int,
        bundle: Bundle,
        own_group: bool = False,
        preserved: Sequence[str] = (),
        shell_job: bool = False,
    ) -> None:
        super().__init__(bundle, own_group)
        self.pid = pid
        self.preserved = preserved
        self.shell_job = shell_job

    @cached_property
    def processes(self) -> list[Process]:
        """Its processes; the first is its init."""
        return [Process(pid) for pid in process.tree(self.pid)]

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
        return mounts.external(self.mounts, self.node)

    def path(self, inside: str) -> str:
        """Return a path on the node for an absolute one in the container; links in it may lead elsewhere."""
        return f"/proc/{self.pid}/root{inside}"


class Process:
    """One of the container's processes."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.path = f"/proc/{pid}"

    @cached_property
    def status(self) -> dict[str, list[str]]:
        """{field: words of its value} of its status (proc_pid_status(5))."""
        try:
            return process.status(self.pid)
        except ProcessLookupError:
            return {}

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
        try:
            numbers = os.listdir(f"{self.path}/fd")
        except OSError as error:
            if error.errno not in GONE and process.start_time(self.pid) is not None:
                raise
            return  # it has ended: the directory of a zombie is root's
        for number in numbers:
            try:
                yield Descriptor(self, number)
            except OSError as error:
                if error.errno not in GONE and process.start_time(self.pid) is not None:
                    raise  # else it was closed


class Descriptor:
    """An open descriptor of `process`; `link` is where it leads (proc_pid_fd(5))."""

    def __init__(self, process: Process, number: str) -> None:
        self.process = process
        self.number = int(number)
        self.path = f"{process.path}/fd/{number}"
        self.link = os.readlink(self.path)

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
    def info(self) -> dict[str, str]:
        """The fields of its fdinfo (proc_pid_fdinfo(5)), of those that come more than once the last."""
        return dict(line.partition(":\t")[::2] for line in self.info_lines)

    @cached_property
    def info_lines(self) -> list[str]:
        """The lines of its fdinfo; none if it was closed."""
        return read(f"{self.process.path}/fdinfo/{self.number}").splitlines()


def read(path: str) -> str:
    """Return the text of a file in /proc; none if what it tells of is gone."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError as error:
        if error.errno not in GONE:
            raise
        return ""
