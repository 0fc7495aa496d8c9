"""Look at one process of a container, and its descriptors, by /proc.

Processes come and go meanwhile. What has ended has nothing: no descriptors, and an empty status.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from functools import cached_property

from oci_criu_shim.host import inet, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

# Errors of what is gone. The files of a process that is about to end, and has no memory any more, are root's; one that
# runs and may not be looked into is refused before anything else is asked of it.
GONE = (errno.ENOENT, errno.ESRCH, errno.EACCES)
DELETED = " (deleted)"  # how the kernel ends the path of a file that has lost the name it was opened by
MAPPED = re.compile(r"^\S+ \S+ \S+ (\S+) \d+ +(/.*)$", re.MULTILINE)  # a line of maps: device and path
CHUNK = 1 << 16
PEEK_OFF = 42  # SO_PEEK_OFF of asm-generic/socket.h
DEVICE = " /dev/"
ODDLY = re.compile(r"^\S+ \S+ \S+ (\S+) \d+ +(/dev/.*|/.* \(deleted\))$", re.MULTILINE)
SIZES = ("VmSize", "VmLib", "VmExe")
NAMESPACES = ("user", "pid", "pid_for_children", "mnt", "net", "ipc", "uts", "cgroup", "time", "time_for_children")


class Process:
    """One of the container's processes."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.path = f"/proc/{pid}"

    def __str__(self) -> str:
        """Return what a user may know it by."""
        return f"process {self.pid} ({self.name})"

    @property
    def name(self) -> str:
        """Its name as ps(1) shows it, of 15 bytes at most."""
        return " ".join(self.status.get("Name", ["?"]))

    @property
    def inside(self) -> str:
        """What it is known by in its own pid namespace, as "python3 (pid 7)"."""
        return f"{self.name} (pid {self.status.get('NSpid', ['?'])[-1]})"

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
            return [] if self.is_ending() else None
        except OSError as error:
            if error.errno not in GONE:
                raise
            return []

    def is_ending(self) -> bool:
        """Return whether it is about to end, or has: it loses its memory before its descriptors and control group."""
        return not Status(read(f"{self.path}/status")).get("VmSize")

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
        if kind not in self._seen_namespaces:
            self._seen_namespaces[kind] = self._link(f"ns/{kind}")
        return self._seen_namespaces[kind]

    @cached_property
    def _seen_namespaces(self) -> dict[str, str]:
        return {}

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

    @property
    def has_moved(self) -> bool:
        """Whether it no longer leads where it did: it was closed, or the file was renamed or removed."""
        try:
            return os.readlink(self.path) != self.link
        except OSError as error:
            if error.errno not in GONE:
                raise
            return True

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


def inet_socket(descriptor: Descriptor) -> inet.Socket | None:
    """Return an internet socket; None for any other one, or one that was closed.

    The kernel's tables in /proc take long to read, and have nothing of connections that have ended.
    """
    import socket

    with duplicate(descriptor) as sock:
        return inet.Socket(sock) if sock and sock.family in (socket.AF_INET, socket.AF_INET6) else None


def first_message(descriptor: Descriptor) -> tuple[int, str] | None:
    """Return the length of what a Unix socket's next read has, and who has sent it, if that is known.

    It is None if there is nothing, or no messages. A program that has told the kernel where it looks ahead
    (SO_PEEK_OFF) is not disturbed.
    """
    import select
    import socket

    with duplicate(descriptor) as sock:
        if not sock or sock.family != socket.AF_UNIX or sock.type not in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            return None
        poll = select.poll()
        poll.register(sock, select.POLLIN | select.POLLRDHUP)
        events = dict(poll.poll(0)).get(sock.fileno(), 0)
        if not events & select.POLLIN or events & select.POLLRDHUP or sock.getsockopt(socket.SOL_SOCKET, PEEK_OFF) >= 0:
            return None
        try:
            data, sender = sock.recvfrom(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return None  # somebody has read it
    name = sender.decode(errors="replace") if isinstance(sender, bytes) else sender or ""
    return len(data), name.replace("\0", "@")


@contextmanager
def duplicate(descriptor: Descriptor) -> Iterator[socket.socket | None]:
    """Have a process's socket, too; None if it was closed, or nobody may look into the process: CRIU will say so."""
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
        yield None
    else:
        with sock:
            yield sock


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
