"""Prints what a process in a container can see of its configuration: a line of JSON for every line that it reads.

`inside.py [FILE …]`: the files are held open, and what is read from them is part of the answer.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
PR_GET_DUMPABLE, PR_GET_KEEPCAPS, PR_GET_SECUREBITS, PR_GET_TIMERSLACK, PR_GET_THP_DISABLE = 3, 7, 27, 30, 42
PR_GET_CHILD_SUBREAPER = 37
IOPRIO_GET, IOPRIO_SET = 252, 251
STATUS = (
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"),
    *("Uid", "Gid", "Groups", "Umask", "SigIgn", "SigBlk", "SigCgt", "Cpus_allowed"),
)
SYSCTLS = (
    *("kernel/hostname", "kernel/domainname", "kernel/shm_rmid_forced", "kernel/shmmax", "kernel/msgmax", "kernel/sem"),
    *("fs/mqueue/msg_max", "fs/mqueue/queues_max", "net/core/somaxconn", "net/ipv4/ip_unprivileged_port_start"),
    *("net/ipv4/ping_group_range", "net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv4/tcp_syncookies"),
    *("net/ipv4/ip_local_port_range", "net/ipv6/conf/lo/disable_ipv6", "user/max_user_namespaces"),
)


def text(path: str) -> str:
    """A small file's contents; why not, where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError as error:
        return f"error: {error.strerror}"


def attempt(what: Callable[[], object]) -> str:
    """Return "ok", or the name of the error."""
    try:
        what()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "ok"


def call(name: str, *arguments: Any) -> Any:
    """A C function's result, or the error's name."""
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    return os.strerror(ctypes.get_errno()) if result == -1 else result


def mounts() -> list[dict[str, Any]]:
    """Every mount; numbers that differ from machine to machine are left out."""
    found = []
    for line in text("/proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        _, _, _, root, point, options, *sharing = fields.split()
        kind, _, supers = rest.split()
        is_file = kind == "tmpfs" and root != "/"  # a device in one that is not seen
        found.append(
            {
                "point": point,
                "root": root if kind not in ("cgroup", "cgroup2") and not is_file else "",
                "options": sorted(options.split(",")),
                "sharing": sorted(word.split(":")[0] for word in sharing),
                "kind": kind,
                "super": sorted(supers.split(",")) if kind == "tmpfs" and not is_file else [],
            }
        )
    return sorted(found, key=lambda mount: str(mount["point"]))  # stable: of two at one place the upper is last


def status() -> dict[str, str]:
    """Fields of /proc/self/status."""
    pairs = (line.partition(":") for line in text("/proc/self/status").splitlines())
    return {name: " ".join(value.split()) for name, _, value in pairs if name in STATUS}


def tree(top: str) -> dict[str, Any]:
    """Everything below a directory: type, mode, owner, device number, target, contents."""
    found: dict[str, Any] = {}
    for directory, names, files in os.walk(top):
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            entry = os.lstat(path)
            kind = stat.S_IFMT(entry.st_mode)
            words: list[Any] = [stat.filemode(entry.st_mode), entry.st_uid, entry.st_gid]
            if kind == stat.S_IFLNK:
                words.append(os.readlink(path))
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                words.append([os.major(entry.st_rdev), os.minor(entry.st_rdev)])
            elif kind == stat.S_IFREG:
                words += [entry.st_size, digest(path)]
            found[path] = words
    return found


def digest(path: str) -> str:
    """Of a file's contents."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha1").hexdigest()
    except OSError as error:
        return os.strerror(error.errno or 0)


def limits() -> dict[str, list[int]]:
    names = (name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE")
    return {name: list(resource.getrlimit(getattr(resource, name))) for name in names}


def writes() -> dict[str, str]:
    """Where a file can be made."""

    def make(directory: str) -> None:
        path = os.path.join(directory, ".written")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(path)

    return {point: attempt(lambda point=point: make(point)) for point in directories()}  # type: ignore[misc]


def directories() -> list[str]:
    points = (mount["point"] for mount in mounts())
    return sorted({point for point in points if os.path.isdir(point) and not point.startswith(("/proc", "/sys"))})


def masked() -> dict[str, str]:
    """What opening for reading and for writing says of the mounts below /proc and /sys."""
    points = sorted({m["point"] for m in mounts() if m["point"].startswith(("/proc/", "/sys/"))})

    def look(point: str) -> str:
        if os.path.isdir(point):
            return f"{len(os.listdir(point))} entries" if "cgroup" not in point else "control groups"
        written = attempt(lambda: os.close(os.open(point, os.O_WRONLY)))
        return f"{len(text(point))} characters, for writing: {written}"

    return {point: look(point) for point in points}


def network() -> dict[str, Any]:
    """Interfaces, and whether a low port can be taken and the loopback reached."""

    def bind(port: int) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
            server.listen()
            with socket.create_connection(server.getsockname(), 2):
                pass

    names = sorted(name for _, name in socket.if_nameindex())
    return {"names": names, "low": attempt(lambda: bind(81)), "any": attempt(lambda: bind(0))}


def namespaces() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))}


def process() -> dict[str, Any]:
    return {
        "argv": text("/proc/self/cmdline").split("\0"),
        "comm": text("/proc/self/comm"),
        "cwd": os.getcwd(),
        "root": os.readlink("/proc/self/root"),
        "env": dict(os.environ),
        "pid": [os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0)],
        "nice": os.nice(0),
        "scheduler": [os.sched_getscheduler(0), os.sched_getparam(0).sched_priority],
        "ioprio": libc.syscall(IOPRIO_GET, 1, 0),
        "oom_score_adj": text("/proc/self/oom_score_adj"),
        "coredump_filter": text("/proc/self/coredump_filter"),
        "personality": libc.personality(0xFFFFFFFF),
        "timerslack": libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0),
        "securebits": libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0),
        "keepcaps": libc.prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0),
        "dumpable": libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
        "thp_disable": libc.prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0),
        "swapoff": call("swapoff", b"/no-such-file"),
    }


def ids() -> dict[str, str]:
    return {name: text(f"/proc/self/{name}") for name in ("uid_map", "gid_map", "setgroups")}


class Held:
    """State of the kernel's that this program made: open files, System V and POSIX objects."""

    def __init__(self, paths: list[str]) -> None:
        self.files = [open(path, "a+b") if os.access(path, os.W_OK) else open(path, "rb") for path in paths]
        for file in self.files:
            file.seek(3)
        self.sysv = "SYSV" in os.environ
        if self.sysv:
            self._make_sysv()
        for directory in filter(os.path.ismount, ("/dev/shm", "/scratch")):
            fill(directory)

    def _make_sysv(self) -> None:
        self.shm = libc.shmget(0x51, 4096, 0o1666)
        libc.shmat.restype = ctypes.c_void_p
        self.memory = libc.shmat(self.shm, None, 0)
        self.sem = libc.semget(0x52, 3, 0o1666)
        libc.semctl(self.sem, 1, 16, 7)  # SETVAL

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for file in self.files:
            position = file.tell()
            link = os.readlink(f"/proc/self/fd/{file.fileno()}")
            found[link] = [position, file.read().decode(errors="replace"), file.mode]
            file.seek(position)
        if self.sysv:
            found["shm"] = call("shmget", 0x51, 4096, 0o666) == self.shm
            found["sem"] = libc.semctl(self.sem, 1, 12)  # GETVAL
        return found


def fill(directory: str) -> None:
    """A file, a link, a directory, a pipe."""
    with open(f"{directory}/file", "w") as stream:
        stream.write("some words")
    os.chmod(f"{directory}/file", 0o640)
    os.symlink("file", f"{directory}/link")
    os.mkdir(f"{directory}/directory", 0o711)
    os.mkfifo(f"{directory}/directory/pipe")


def main() -> None:
    held = Held(sys.argv[1:])
    parts = (mounts, status, limits, writes, masked, network, namespaces, process, ids)
    for _ in sys.stdin:
        seen: dict[str, Any] = {part.__name__: part() for part in parts}
        seen["sysctls"] = {name: text(f"/proc/sys/{name}") for name in SYSCTLS}
        seen["trees"] = {top: tree(top) for top in ("/dev", "/scratch") if os.path.ismount(top)}
        seen["held"] = held.look()
        seen["uname"] = [os.uname().nodename, os.uname().sysname]
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
