"""Have a child that is the user do what root asks for in the user's directory.

So nothing in that directory can make root run, read or signal anything. (Slurm calls some of the verbs as root when a
step ends, and so do administrators.) The child, and what a container's hooks leave behind, have a limited time to end,
because slurmstepd waits for us without a limit. Their output goes to memory first, which they may hold as long as they
like.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
import time

from oci_criu_shim.container import backends, ownership
from oci_criu_shim.errors import Others, ShimError
from oci_criu_shim.host import linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.container.ownership import User

# The other verbs start programs, or take the caller's files and descriptors.
VERBS = frozenset(("state", "kill", "delete", "list", "ps", "pause", "resume"))
# Options that name no file and no program.
OPTIONS = ("debug", "systemd-cgroup", "cgroup-manager")
SECONDS = 15.0
END_SECONDS = 5.0
LARGEST = 1 << 20  # bytes of each stream
OOM = "/proc/self/oom_score_adj"


def carry_out(call: Invocation, user: User, work: Callable[[Invocation], int]) -> int:
    """Have a child that is the user do `work`; return its exit status.

    Raise ShimError if the call's verb is none that the child may do, or took too long.
    """
    if call.verb not in VERBS and not (call.verb == "events" and call.flag("stats")):
        said = f"{call.verb} is not for root in {call.root}, which is user {user.name}'s"
        raise Others(said, ownership.by(user.name), user.name)
    streams = [_memory(), _memory()]
    root, others = os.getpid(), process.children(os.getpid())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else another process could get the number of a child that has ended
    linux.become_subreaper()

    def child() -> int:
        try:
            _become(user, root, streams)
            call.globals = {key: call.globals[key] for key in OPTIONS if key in call.globals} | {
                backends.KNOWN_ONLY: ""
            }
            call.log.path = None
            try:
                status = work(call)
            except (ShimError, OSError) as error:
                status = call.failed(error)
            sys.stdout.flush()
        except OSError as error:
            return call.failed(error)
        return status

    pid = process.fork(child)
    try:
        code = _end_of(pid)
    finally:
        _end_all_but(others)
    for stream, target in zip(streams, (sys.stdout, sys.stderr), strict=True):
        if target:  # None if the descriptor was closed
            target.write(_said(stream))
    if code is None:
        hint = f"see which of user {user.name}'s processes hang, and on what (ps: state D)"
        raise ShimError(f"{call.verb} in {call.root} did not end in {SECONDS:.0f} s, and was ended", hint)
    return process.exit_status(code)


def _memory() -> int:
    """Return a descriptor of a file in memory, of LARGEST bytes, that can't grow."""
    made = os.memfd_create("said", os.MFD_ALLOW_SEALING)
    os.ftruncate(made, LARGEST)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return _above_streams(made)


def _said(stream: int) -> str:
    """Return what was written to a stream, with nothing in it that a terminal would obey."""
    text = os.pread(stream, LARGEST, 0).rstrip(b"\0").decode(errors="replace")
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _above_streams(descriptor: int) -> int:
    """Move a descriptor above the numbers of the standard streams, which may be closed here; return the new number."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _become(user: User, root: int, streams: list[int]) -> None:
    """Become the user, without anything of root's, and end when `root`, the process that waits, ends.

    No terminal, key, descriptor, directory, environment, group or capability is left, nor slurmstepd's protection from
    the OOM killer.
    """
    os.setsid()
    _leave_keys()
    _have_streams(streams)
    os.chdir("/")
    os.umask(0o077)
    _be_mortal()
    os.environ.clear()
    os.environ.update(process.ENVIRONMENT)
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    linux.gain_no_privileges()
    linux.make_undumpable()  # root's memory is still in this process, until it runs another program
    linux.end_with_parent()
    if os.getppid() != root:
        os._exit(1)


def _leave_keys() -> None:
    try:
        linux.leave_session_keyring()
    except OSError as error:
        if error.errno not in (
            errno.ENOSYS,
            errno.EPERM,
        ):  # no keys here, or a seccomp filter, which the user has as well
            raise


def _have_streams(streams: list[int]) -> None:
    """Make standard input empty and `streams` the other two; close all other descriptors."""
    null = _above_streams(os.open("/dev/null", os.O_RDWR))
    for number, descriptor in enumerate((null, *streams)):
        os.dup2(descriptor, number)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            try:
                os.close(descriptor)
            except OSError as error:
                if error.errno != errno.EBADF:  # the listing's own
                    raise


def _be_mortal() -> None:
    with open(OOM, encoding="ascii") as stream:
        spared = int(stream.read()) < 0
    if spared:
        with open(OOM, "w", encoding="ascii") as stream:
            stream.write("0")


def _end_of(pid: int) -> int | None:
    """Return how the child ended, as process.wait() does; None if it did not end in time."""
    poll = select.poll()
    ended = os.pidfd_open(pid)
    try:
        poll.register(ended, select.POLLIN)
        return process.wait(pid) if poll.poll(SECONDS * 1000) else None
    finally:
        os.close(ended)


def _end_all_but(others: list[int]) -> None:
    """Kill what is left of the child and its descendants, but not `others`.

    Each becomes our child when its parent has ended. Only our own children are signalled: nobody else can have their
    numbers before we have waited for them. Those that hang in the kernel are left.
    """
    limit = time.monotonic() + END_SECONDS
    while time.monotonic() < limit:
        left = [pid for pid in process.children(os.getpid()) if pid not in others]
        if not left:
            return
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
