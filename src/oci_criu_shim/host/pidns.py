"""List or signal all processes of a container: those in the pid namespace whose first process is its init.

Backends find them by the container's control group, and a user's container has none of its own. runc 1.1 fails then;
crun 1.21 signals nobody, and says nothing (cgroup_killall_path() in src/libcrun/cgroup-utils.c).
"""

from __future__ import annotations

import errno
import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import namespaces, process


def is_led_by(pid: int) -> bool:
    """Return whether `pid` is the first process of a pid namespace below ours, which is then one container's."""
    try:
        numbers = process.status(pid)["NSpid"]
    except ProcessLookupError:
        return False  # it has ended
    return len(numbers) > 1 and numbers[-1] == "1"


def members(pid: int) -> list[int]:
    """Return the pids in our namespace of all processes in the namespace of the init `pid`, and in those below."""
    namespace = _of(pid)
    leaders = [int(name) for name in os.listdir("/proc") if name.isdecimal() and _of(int(name)) == namespace]
    return sorted({each for leader in leaders for each in process.tree(leader)})


def _of(pid: int) -> str:
    """Return the name of a process's namespace; empty if it has ended, or is another user's."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def signal(pid: int, number: int) -> None:
    """Send a signal to all processes in the namespace of the init `pid`, and in those below.

    The init is sent it last, since all others end with it. Raise ShimError if only the init could be sent it.
    """
    status = process.wait(process.fork(lambda: _inside(pid, number)))
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended, and all others with it
    if status > 0:
        raise ShimError(
            f"only the container's init could be sent the signal: {os.strerror(status)}",
            "leave out --all, or send KILL, which ends all of them with it",
        )


def _inside(pid: int, number: int) -> int:
    """In a child: have a child of its own, as only that is in the namespace, send the signal; return an errno, or 0."""
    try:
        _enter(pid)
        return max(process.wait(process.fork(lambda: _signal_others(number))), 0)
    except OSError as error:
        return error.errno or errno.EIO


def _enter(pid: int) -> None:
    """Enter the pid namespace of `pid`; OSError if that is ours, and the signal would go to the node's processes."""
    if "pid" not in namespaces.enter(pid, ("user", "pid")):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _signal_others(number: int) -> int:
    try:
        os.kill(-1, number)  # to all but this process and the init
    except ProcessLookupError:
        pass  # there are none
    return 0
