"""`peculiar.py WHAT [ARGUMENT …]`: a child does what few programs do, and the process becomes inside.py."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, STRICT, FILTER, PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 22, 1, 2, 38, 4
PR_SET_CHILD_SUBREAPER = 36
NR_SECCOMP, NR_PERF, NR_USERFAULTFD, NR_SECRET = 317, 298, 323, 447
CLONE = {"user": 0x10000000, "mnt": 0x20000, "net": 0x40000000, "pid": 0x20000000, "ipc": 0x8000000, "time": 0x80}
CLONE |= {"uts": 0x4000000, "cgroup": 0x2000000}
MS_BIND, MS_SHARED, MNT_DETACH = 4096, 1 << 20, 2
held: list[object] = []


def done(result: int) -> int:
    """The result of a C function; OSError if it failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def descriptor(result: int) -> None:
    """Hold what a system call has opened."""
    held.append(done(result))


def stopped(name: str) -> None:
    """Stop by a signal of that name."""
    held.append("stopped")
    os.kill(os.getpid(), getattr(signal, name))


def background() -> None:
    """Stop as a background job does that reads from its terminal."""
    master, slave = os.openpty()
    held.extend((master, slave))
    leader = os.fork()
    if leader:
        return
    os.setsid()
    fcntl.ioctl(slave, 0x540E, 0)
    if os.fork() == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTIN, signal.SIG_DFL)
        os.read(slave, 1)
    signal.pause()


def zombie() -> None:
    """A process that has ended, and that nobody waits for."""
    if os.fork() == 0:
        os._exit(3)
    time.sleep(0.1)


def adopted() -> None:
    """A daemon that it adopts when the daemon's parent, which began a session for it, has ended."""
    done(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    os.waitpid(middle, 0)


def deserted() -> None:
    """A process group whose first process is in another one by now."""
    group = os.getpgid(0)
    os.setpgid(0, 0)
    if os.fork() == 0:
        signal.pause()
    os.setpgid(0, group)


def between_sessions() -> None:
    """Children in the session that this process was born in, and in one of a child's that has ended."""
    if os.fork() == 0:
        signal.pause()
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setpgid(0, 0)
            signal.pause()
        os._exit(0)
    os.wait()


def leaderless() -> None:
    """A process whose first thread has ended."""
    if os.fork() == 0:
        threading.Thread(target=threading.Event().wait).start()
        ctypes.PyDLL(None).syscall(60, 0)
    time.sleep(0.3)


def traced() -> None:
    """One process traces another."""
    victim = os.fork()
    if not victim:
        signal.pause()
    done(libc.ptrace(0x4206, victim, 0, 0))


def strict() -> None:
    """Seccomp's strict mode: nothing but read, write and exit. Python's own lock would take more."""
    reader, writer = os.pipe()
    silent = os.pipe()
    if os.fork():
        os.close(writer)
        if os.read(reader, 1) != b"r":
            raise OSError("there is no strict mode")
        return
    library = ctypes.PyDLL(None)
    ready, buffer = ctypes.create_string_buffer(b"r"), ctypes.create_string_buffer(1)
    done(library.prctl(PR_SET_SECCOMP, STRICT, 0, 0, 0))
    library.syscall(1, writer, ready, 1)
    library.syscall(0, silent[0], buffer, 1)


def filter_all() -> None:
    """A filter that allows all, for this thread."""
    program = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", 1, ctypes.addressof(buffer))
    done(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    done(libc.syscall(NR_SECCOMP, 1, 0, ctypes.create_string_buffer(fprog, len(fprog))))


def threads_filter() -> None:
    """A filter in one of two threads."""
    ready = threading.Event()

    def work() -> None:
        filter_all()
        ready.set()
        signal.pthread_sigmask(signal.SIG_BLOCK, [])
        select.select([], [], [])

    threading.Thread(target=work, daemon=True).start()
    ready.wait()


def unshared(*kinds: str) -> None:
    """Namespaces of its own."""
    for kind in kinds:
        done(libc.unshare(CLONE[kind]))
    if "pid" in kinds and os.fork() == 0:
        signal.pause()


def deleted(path: str, size: str = "5") -> None:
    """A file that is open and has no name."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 0)
    for _ in range(int(size) >> 20 or 1):
        os.write(file, b"x" * min(int(size), 1 << 20))
    os.unlink(path)
    held.append(file)


def held_open(path: str) -> None:
    """A file or a directory."""
    held.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def held_namespace() -> None:
    """A network namespace that nobody is in any more."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        done(libc.unshare(CLONE["net"]))
        os.write(writer, b"r")
        signal.pause()
    os.read(reader, 1)
    held.append(os.open(f"/proc/{child}/ns/net", os.O_RDONLY))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def held_and_covered(path: str) -> None:
    """A directory that is open, and has something mounted over it since."""
    held_open(path)
    mounted("tmpfs", path, "tmpfs")


def held_below(directory: str, kind: str) -> None:
    """A file or a FIFO that is open, and whose directory has something mounted over it since."""
    path = f"{directory}/{kind}"
    if kind == "fifo":
        os.mkfifo(path)
    held.append(os.open(path, os.O_RDWR | os.O_CREAT))
    mounted("tmpfs", directory, "tmpfs")


def held_and_bound(point: str) -> None:
    """A file that is open on a mount that is mounted over itself since."""
    mounted("tmpfs", point, "tmpfs")
    held.append(os.open(f"{point}/file", os.O_RDWR | os.O_CREAT))
    mounted(point, point)


def in_a_closed_directory(directory: str, what: str) -> None:
    """A file that is open, a working directory or a tmpfs in a directory that is searched by a right of root's only."""
    os.makedirs(f"{directory}/in")
    if what == "file":
        held.append(os.open(f"{directory}/in/file", os.O_RDWR | os.O_CREAT))
    elif what == "renamed":
        relinked(f"{directory}/in/file", f"{directory}/in/other")
    elif what == "directory":
        os.chdir(f"{directory}/in")
    else:
        mounted("tmpfs", f"{directory}/in", "tmpfs")
    os.chmod(directory, 0o600)


def held_and_unmounted(point: str) -> None:
    """A file that is open on a mount that is gone."""
    mounted("tmpfs", point, "tmpfs")
    held.append(os.open(f"{point}/file", os.O_RDWR | os.O_CREAT))
    done(libc.umount2(point.encode(), MNT_DETACH))


def working(path: str) -> None:
    """A working directory."""
    os.chdir(path)


def mapped(path: str) -> None:
    """A file that is mapped, not open."""
    file = os.open(path, os.O_RDONLY)
    libc.mmap.restype = ctypes.c_void_p
    held.append(libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, file, ctypes.c_long(0)))
    os.close(file)


def deleted_directory(path: str) -> None:
    """A working directory that is gone."""
    os.makedirs(path)
    os.chdir(path)
    os.rmdir(path)


def relinked(path: str, other: str) -> None:
    """A file that is open by a name that is gone, and has another one."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.link(path, other)
    os.unlink(path)
    held.append(file)


def epoll() -> None:
    """An epoll set with a descriptor that was closed, and whose file is still open."""
    poll = select.epoll()
    reader, writer = os.pipe()
    poll.register(reader, select.EPOLLIN)
    held.extend((poll, os.dup(reader), writer))
    os.close(reader)


def epoll_sent() -> None:
    """An epoll set with a descriptor that was closed, and whose file is on its way in a socket."""
    poll = select.epoll()
    reader, writer = os.pipe()
    poll.register(reader, select.EPOLLIN)
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [reader])
    os.close(reader)
    held.extend((poll, writer, ours, theirs))


def epoll_inherited() -> None:
    """An epoll set with a descriptor that only a child still has."""
    poll = select.epoll()
    reader, writer = os.pipe()
    poll.register(reader, select.EPOLLIN)
    if os.fork() == 0:
        poll.close()
        signal.pause()
    time.sleep(0.3)
    os.close(reader)
    held.extend((poll, writer))


def socket_of(family: str, kind: str = "1", protocol: str = "0") -> None:
    """A socket of a family, by numbers."""
    held.append(socket.socket(int(family), int(kind), int(protocol)))


def unlinked(path: str) -> None:
    """A listening socket without its name."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    os.unlink(path)
    held.append(listener)


def perf() -> None:
    """A performance counter."""
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 1) + b"\0" * 24 + struct.pack("Q", 0x61), 112)
    descriptor(libc.syscall(NR_PERF, attributes, 0, -1, -1, 0))


def userfaultfd() -> None:
    """Handling of page faults."""
    descriptor(libc.syscall(NR_USERFAULTFD, 1))


def secret() -> None:
    """Secret memory."""
    descriptor(libc.syscall(NR_SECRET, 0))


def pidfd() -> None:
    """The init by a descriptor."""
    held.append(os.pidfd_open(1))


def mounted(source: str, target: str, kind: str = "", data: str = "") -> None:
    """A mount that the program makes; a bind mount if it is of no kind."""
    flags = 0 if kind else MS_BIND
    done(libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None))


def registered(point: str) -> None:
    """An interpreter for files of a kind."""
    mounted("none", point, "binfmt_misc")
    with open(f"{point}/register", "w") as file:
        file.write(":odd:E::odd::/bin/sh:")


def peers(point: str, other: str, *changes: str) -> None:
    """Two mounts that share what is mounted below either, and changes of what came to the second by that."""
    mounted("tmpfs", point, "tmpfs")
    done(libc.mount(None, point.encode(), None, MS_SHARED, None))
    mounted(point, other)
    os.mkdir(f"{point}/in")
    mounted("tmpfs", f"{point}/in", "tmpfs")
    for flags in changes:
        done(libc.mount(None, f"{other}/in".encode(), None, int(flags, 0), None))


def mounted_elsewhere(point: str) -> None:
    """What only a mount namespace of a program's own has."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        done(libc.unshare(CLONE["mnt"]))
        os.close(writer)
        signal.pause()
    os.close(writer)
    os.read(reader, 1)
    done(libc.umount2(point.encode(), MNT_DETACH))


def named_elsewhere(point: str) -> None:
    """A socket whose name only a mount namespace of a program's own has."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        done(libc.unshare(CLONE["mnt"]))
        mounted("tmpfs", point, "tmpfs")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{point}/socket")
        os.close(writer)
        signal.pause()
    os.close(writer)
    os.read(reader, 1)


def mounted_and_removed(directory: str) -> None:
    """A file that is mounted on another one, and has no name any more."""
    for name in ("old", "new"):
        os.close(os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT))
    mounted(f"{directory}/old", f"{directory}/new")
    os.unlink(f"{directory}/old")


def becomes(path: str, *argv: str) -> None:
    """Another program."""
    held.append(os.spawnv(os.P_NOWAIT, path, [path, *argv]))
    time.sleep(0.3)


def without_memory_dumps() -> None:
    """Not dumpable."""
    done(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


def main() -> None:
    what, *arguments = sys.argv[1:]
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        act = globals()[what]
        if what == "stopped":
            os.write(writer, b"r")
        try:
            act(*arguments)
        except OSError as error:
            os.write(writer, f"{what}: {error}".encode())
            os._exit(1)
        os.write(writer, b"r")
        while True:
            signal.pause()
    os.close(writer)
    said = os.read(reader, 1000)
    if said != b"r":
        print(said.decode(), file=sys.stderr, flush=True)
    time.sleep(0.2)
    os.execvp("python3", ["python3", "-I", "/inside.py"])


main()
