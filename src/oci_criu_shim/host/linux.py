"""Make system calls for which Python has no function; no policy here. All raise OSError."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

from oci_criu_shim.host.quick import signal

CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 8, 32, 4096, 16384, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 4, 36, 47, 2
PR_SET_NO_NEW_PRIVS = 38
CAP_SETUID = 7
KEYCTL = {"x86_64": 250, "aarch64": 219, "ppc64le": 271}  # numbers of keyctl
KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP = {"x86_64": 317, "aarch64": 277, "ppc64le": 358, "riscv64": 277, "s390x": 348}  # numbers of seccomp
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1, 4
CAPABILITY_VERSION_3 = 0x20080522
SYNC_FILE_RANGE_WRITE = 2
IOPRIO_WHO_PROCESS = 1
IOPRIO = {"x86_64": (252, 251), "aarch64": (31, 30), "ppc64le": (274, 273)}  # numbers of ioprio_get and ioprio_set
KCMP = {"x86_64": 312, "aarch64": 272, "ppc64le": 354}  # numbers of kcmp
KCMP_FILE, KCMP_EPOLL_TFD = 0, 7
OPENAT2, PIDFD_GETFD = 437, 438  # numbers of all architectures
RESOLVE_NO_XDEV, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 4, 8, 16
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    words = [os.fsencode(word) if word is not None else None for word in (source, target, kind)]
    options = data.encode() if data is not None else None
    _check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), options), target)


def unmount(target: str) -> None:
    """umount2(2) with MNT_DETACH: take a mount away, and those below it, though they are in use."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def set_seccomp_filter(program: bytes) -> None:
    """seccomp(2): have the kernel ask a filter, of struct sock_filter, about system calls from now on.

    Before Linux 5.16, any filter without the flag slows all of a program down.
    """
    code = ctypes.create_string_buffer(program, len(program))
    filtered = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code))
    flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW
    _check(_libc.syscall(SECCOMP[os.uname().machine], SECCOMP_SET_MODE_FILTER, flags, filtered), "seccomp")


def enter(namespace: str | int, kind: int = 0) -> None:
    """setns(2) by a path or a descriptor; `kind` is the namespace's clone flag, 0 for any."""
    handle = os.open(namespace, os.O_RDONLY) if isinstance(namespace, str) else namespace
    try:
        _check(_libc.setns(handle, kind), f"setns {namespace}")
    finally:
        if handle != namespace:
            os.close(handle)


def set_domain_name(name: str) -> None:
    """setdomainname(2)."""
    data = name.encode()
    _check(_libc.setdomainname(data, ctypes.c_size_t(len(data))), "setdomainname")


def inherit_capabilities() -> int:
    """Make every permitted capability inheritable, and effective; return them, as bits (capabilities(7))."""
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, sets), "capget")
    _, low, _, _, high, _ = struct.unpack("=6I", sets.raw)
    _check(_libc.capset(header, struct.pack("=6I", low, low, low, high, high, high)), "capset")
    return int(high << 32 | low)


def keep_capabilities(without: int = 0) -> None:
    """Make every permitted capability ambient, so that it outlives an exec (capabilities(7)), but for those bits."""
    permitted = inherit_capabilities() & ~without
    for number in range(permitted.bit_length()):
        if permitted >> number & 1:
            _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), "prctl")


def begin_writing(descriptor: int, offset: int, size: int) -> None:
    """sync_file_range(2) with SYNC_FILE_RANGE_WRITE: start writing those bytes to the disk."""
    extent = ctypes.c_int64(offset), ctypes.c_int64(size)
    _check(_libc.sync_file_range(descriptor, *extent, SYNC_FILE_RANGE_WRITE), "sync_file_range")


def tee(source: int, target: int, size: int) -> int:
    """tee(2): copy at most `size` bytes from one pipe to another, and leave them in the first; return how many."""
    copied = _libc.tee(source, target, ctypes.c_size_t(size), 0)
    _check(copied, "tee")
    return int(copied)


def polls(pid: int, epoll: int, number: int, nth: int, descriptor: int) -> bool:
    """Return whether the file that the epoll set of a process knows by `number` is open by `descriptor`, too (kcmp(2)).

    If several files were added by that number, it is the `nth`. It is True if that can't be told.
    """
    if os.uname().machine not in KCMP:
        return True
    slot = ctypes.create_string_buffer(struct.pack("III", epoll, number, nth))
    return bool(_libc.syscall(KCMP[os.uname().machine], pid, pid, KCMP_EPOLL_TFD, descriptor, slot) <= 0)


def is_same_file(one: int, descriptor: int, other: int, its: int) -> bool:
    """Return whether a descriptor of process `one` is of the same open file as that of `other` (kcmp(2))."""
    if os.uname().machine not in KCMP:
        return False
    return bool(_libc.syscall(KCMP[os.uname().machine], one, other, KCMP_FILE, descriptor, its) == 0)


def duplicate(process: int, number: int) -> int:
    """pidfd_getfd(2): return a descriptor for what the process of the pidfd has as descriptor `number`."""
    found = _libc.syscall(PIDFD_GETFD, process, number, 0)
    _check(found, "pidfd_getfd")
    return int(found)


def open_inside(root: int, path: str, flags: int) -> int:
    """openat2(2): open an absolute path as it is below the directory `root`, with no symbolic link on its way."""
    return _open(root, path, flags, 0, RESOLVE_NO_SYMLINKS | RESOLVE_IN_ROOT)


def open_in(directory: int, name: str, flags: int, mode: int = 0) -> int:
    """openat2(2): open, or make, what is itself in a directory, and nothing that a link or a mount there leads to."""
    return _open(directory, name, flags, mode, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)


def names(directory: int) -> list[str]:
    """Return the names of what is in a directory, all of them whatever others do.

    The place that reading has come to belongs to the open file, by which other threads read too, and other processes
    that it came from by a socket.
    """
    own = open_in(directory, ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(own)
    finally:
        os.close(own)


def sizes(directory: int) -> dict[str, int]:
    """Return the names of what is in a directory, and their sizes in bytes."""
    return {name: os.stat(name, dir_fd=directory, follow_symlinks=False).st_size for name in names(directory)}


def _open(directory: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)
    found = _libc.syscall(OPENAT2, directory, os.fsencode(path), how, ctypes.c_size_t(len(how)))
    _check(found, path)
    return int(found)


def io_priority(pid: int) -> int:
    """ioprio_get(2) of a process or thread (0: this one); 0, the default, if the call's number isn't known here."""
    if os.uname().machine not in IOPRIO:
        return 0
    value = _libc.syscall(IOPRIO[os.uname().machine][0], IOPRIO_WHO_PROCESS, pid)
    _check(value, "ioprio_get")
    return int(value)


def set_io_priority(pid: int, value: int) -> None:
    """ioprio_set(2) of a process or thread (0: this one)."""
    _check(_libc.syscall(IOPRIO[os.uname().machine][1], IOPRIO_WHO_PROCESS, pid, value), "ioprio_set")


def set_personality(value: int) -> None:
    """personality(2)."""
    _check(_libc.personality(ctypes.c_ulong(value)), "personality")


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER of prctl(2))."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def end_with_parent() -> None:
    """Have this process killed when its parent ends (PR_SET_PDEATHSIG of prctl(2))."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def make_dumpable() -> None:
    """Give /proc/self back to this user after a change of user id (PR_SET_DUMPABLE of prctl(2))."""
    _check(_libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")


def make_undumpable() -> None:
    """Give /proc/self to root, and let no other process trace this one (PR_SET_DUMPABLE of prctl(2))."""
    _check(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def gain_no_privileges() -> None:
    """Let no program that runs from here on give more rights than its caller has (PR_SET_NO_NEW_PRIVS of prctl(2))."""
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def leave_session_keyring() -> None:
    """Join a new, empty session keyring (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING); keep the old one if the call's number
    isn't known here."""
    if number := KEYCTL.get(os.uname().machine):
        _check(_libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")


def link_up(name: str) -> None:
    """Bring the network interface `name` up (netdevice(7))."""
    import socket  # it takes long to import, and a start needs none

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(handle, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | IFF_UP))


def tracks_writes() -> bool:
    """Return whether the kernel tells which memory was written since a moment; it is tried on our own memory.

    See Documentation/admin-guide/mm/soft-dirty.rst. CRIU knows, too, but tells nobody without CAP_SYS_ADMIN or
    CAP_CHECKPOINT_RESTORE.
    """
    written = ctypes.create_string_buffer(1)
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("4")
        written[0] = b"1"
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            entry = os.pread(pagemap.fileno(), 8, ctypes.addressof(written) // os.sysconf("SC_PAGE_SIZE") * 8)
    except OSError:
        return False
    return bool(struct.unpack("=Q", entry)[0] >> 55 & 1)
