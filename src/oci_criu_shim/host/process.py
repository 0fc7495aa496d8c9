"""Start programs, the one way in this package, and tell of processes by /proc."""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import NoReturn

    from oci_criu_shim.log import Log

# SIGPIPE and SIGXFSZ: Python ignores them; programs that it starts must not. (signal takes longer to import than os.)
DEFAULTS = (13, 25)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8"}  # for programs that have no business with the caller's


def find(program: str) -> str | None:
    """Return the absolute path of `program` in the fixed PATH; None if there is none."""
    if "/" in program:
        return program if os.access(program, os.X_OK) else None
    for directory in PATH.split(":"):
        path = f"{directory}/{program}"
        if os.access(path, os.X_OK):
            return path
    return None


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    fds: Mapping[int, int],
    log: Log | None = None,
    program: str | None = None,
    leads: bool = False,
) -> int:
    """Start `argv` with exactly the descriptors `fds` ({number in the child: number here}), and return its pid.

    `program` is its path if argv[0] is not. Standard descriptors that are not named are /dev/null. If it `leads`, it
    has a process group of its own. Raise OSError if the program can't be started.
    """
    if log:
        log.debug("running: " + " ".join(argv))
    # First copy out of the way, so that no dup2 overwrites a descriptor that is still needed.
    free = max([2, *fds, *fds.values()]) + 1
    copies = {target: free + n for n, target in enumerate(sorted(fds))}
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = []
    actions += [(os.POSIX_SPAWN_DUP2, fds[target], copy) for target, copy in copies.items()]
    actions += [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3) if number not in fds]
    actions += [(os.POSIX_SPAWN_DUP2, copy, target) for target, copy in copies.items()]
    group = {"setpgroup": 0} if leads else {}
    close = [(os.POSIX_SPAWN_CLOSE, copy) for copy in copies.values()]
    return os.posix_spawn(
        *(program or argv[0], list(argv), dict(env)),
        file_actions=[*actions, *close],
        setsigmask=[],
        setsigdef=DEFAULTS,
        **group,  # type: ignore[arg-type]  # mypy can't tell which keyword this is
    )


def become(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> NoReturn:
    """Turn this (forked) process into `argv`, with descriptors as spawn() gives them.

    This is for children that must be real forks: a kernel before 6.3 lets no vfork into a new time namespace.
    """
    free = max([2, *fds, *fds.values()]) + 1
    for offset, target in enumerate(sorted(fds)):
        os.dup2(fds[target], free + offset, inheritable=False)
    for number in range(3):
        os.dup2(os.open("/dev/null", os.O_RDWR), number)
    for offset, target in enumerate(sorted(fds)):
        os.dup2(free + offset, target)
    from oci_criu_shim.host.quick import signal

    for number in DEFAULTS:
        signal.signal(number, signal.SIG_DFL)
    os.execve(argv[0], list(argv), dict(env))


def output(argv: Sequence[str], env: Mapping[str, str], log: Log | None = None) -> tuple[int, str, str]:
    """Run `argv` to its end; return (exit status as of os.waitstatus_to_exitcode, output, errors).

    Errors are kept apart, since programs that succeed may warn.
    """
    with open(os.memfd_create("errors"), "r+", encoding="utf-8", errors="replace") as errors:
        reader, writer = os.pipe()
        try:
            pid = spawn(argv, env, {1: writer, 2: errors.fileno()}, log)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        with open(reader, encoding="utf-8", errors="replace") as stream:
            text = stream.read()
        status = wait(pid)
        errors.seek(0)
        return status, text, errors.read()


def fork(work: Callable[[], int]) -> int:
    """Run `work` in a child, which exits with its result, and return the child's pid.

    The child notes no signals: its parent would take them for its own (signals.py).
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if "signal" in sys.modules:
            sys.modules["signal"].set_wakeup_fd(-1)
        status = work()
    except Exception:
        sys.excepthook(*sys.exc_info())  # a bug of ours; nobody else would see it
    finally:
        os._exit(status)


def fork_in_background(work: Callable[[], int]) -> int:
    """Run `work` in a child of the lowest priority, and return the child's pid.

    The child keeps none of our pipes open: others wait for their end.
    """

    def start() -> int:
        from oci_criu_shim.host.quick import signal

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.nice(19)
        null = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        return work()

    return fork(start)


def wait(pid: int) -> int:
    """Wait for a child, and return its exit status; the negative signal number if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ends_within(pid: int, seconds: float) -> bool:
    """Return whether the process `pid` ends within so many seconds; nobody has waited for it yet."""
    import select

    handle = os.pidfd_open(pid)
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def exit_status(code: int) -> int:
    """Return a shell's exit status for a child for which wait() returned `code`."""
    return code if code >= 0 else 128 - code


def identity(pid: int) -> list[int]:
    """Return [pid, its start time], also of one that has ended but was not waited for; else ProcessLookupError."""
    fields = stat_fields(pid)
    if fields is None:
        raise ProcessLookupError(pid)
    return [pid, int(fields[19])]


def start_time(pid: int) -> int | None:
    """Return the start time of `pid`, in clock ticks since boot; None if it has ended.

    A pid and its start time name a process for good (proc_pid_stat(5), field 22).
    """
    fields = stat_fields(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def status(pid: int) -> dict[str, list[str]]:
    """Return {field: words of its value} of /proc/PID/status (proc_pid_status(5)); ProcessLookupError if it has ended.

    Kernel threads and zombies lack the fields about memory.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as stream:
            return {name: value.split() for name, _, value in (line.partition(":") for line in stream)}
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None


def personality(pid: int) -> int:
    """Return the personality(2) of a process."""
    with open(f"/proc/{pid}/personality", encoding="ascii") as stream:
        return int(stream.read(), 16)


def tracer(pid: int) -> int:
    """Return the pid of the process that traces `pid`; 0 if none does, or `pid` has ended."""
    try:
        return int(status(pid)["TracerPid"][0])
    except ProcessLookupError:
        return 0


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def shares(pid: int, kind: str) -> bool:
    """Return whether a process is in this one's namespace of a kind, as "net"."""
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino


def command(pid: int) -> str:
    """Return a process's command line, in which nothing is left that a terminal would obey; its name if it has none."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as stream:
            words = stream.read().rstrip("\0").replace("\0", " ") or f"[{' '.join(status(pid)['Name'])}]"
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def waits_in(path: str) -> str:
    """Return where in the kernel a thread with that directory in /proc waits, in words; nothing if that is hidden."""
    try:
        with open(f"{path}/wchan", encoding="ascii") as stream:
            place = stream.read().strip("0")
    except OSError:
        return ""
    return f" (in {place})" if place else ""


def user_name(uid: int) -> str:
    """Return a user's name; the number if it has none, or the directory of users (LDAP, say) does not answer."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def tree(pid: int) -> list[int]:
    """Return the pids of a process and its descendants; descendants of one that ends meanwhile may be left out."""
    found = [pid]
    for each in found:
        found += children(each)
    return found


def numbered(init: int) -> Iterator[tuple[int, int]]:
    """Yield the pid of each process from `init` on, and the one that it has in their own pid namespace."""
    try:
        level = len(status(init)["NSpid"]) - 1  # in the pid namespaces from ours to its own
    except ProcessLookupError:
        return
    for pid in tree(init):
        try:
            yield pid, int(status(pid)["NSpid"][level])
        except ProcessLookupError:
            pass  # it has ended meanwhile


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, including those that nobody has waited for yet."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            # As bytes, without a buffer: there may be many, and text takes twice as long.
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as stream:
                found += map(int, stream.readall().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # the process, or that thread, has ended
    return found


def in_a_user_namespace() -> bool:
    """Return whether this is not the node's own user namespace: root may be a user then, as under rootless podman."""
    with open("/proc/self/uid_map", encoding="ascii") as stream:
        return stream.read().split() != ["0", "0", "4294967295"]


def memory(init: int) -> int:
    """Return the bytes of memory of the processes from `init` on, shared memory included, mapped files left out."""
    return sum(map(_own_memory, tree(init)))


def _own_memory(pid: int) -> int:
    try:
        found = status(pid)
    except ProcessLookupError:
        return 0
    return sum(int(found[name][0]) * 1024 for name in ("RssAnon", "RssShmem", "VmSwap") if name in found)
