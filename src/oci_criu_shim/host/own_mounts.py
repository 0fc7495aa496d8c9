"""Make the mounts that a bare task has for itself, over the node's, in its own user and mount namespace.

What the node has mounted can't be taken away there (mount_namespaces(7)), only covered.
"""

from __future__ import annotations

import os

from oci_criu_shim.host import linux, namespaces, process
from oci_criu_shim.host.linux import MS_NODEV, MS_NOEXEC, MS_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

QUEUES = "/dev/mqueue"
TERMINALS = "newinstance,ptmxmode=0666,mode=0620"


def make(places: Iterable[str]) -> None:
    """Mount an empty tmpfs at each of the `places`, and terminals with numbers of their own."""
    # What the node mounts later is seen, by automount say; nothing of ours is seen there.
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    for place in places:
        linux.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    linux.mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, TERMINALS)


def make_of_namespaces() -> None:
    """Mount what shows the pid and the ipc namespace that this process is in."""
    linux.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if os.path.ismount(QUEUES):
        linux.mount("mqueue", QUEUES, "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def finish(pid: int, stage: str) -> None:
    """After a restore, make what is still missing for the init `pid`, and take away what is mounted at `stage`.

    Raise OSError if that fails.
    """
    status = process.wait(process.fork(lambda: _finish(pid, stage)))
    if status:
        raise OSError(status, os.strerror(status), "/proc") if status > 0 else ChildProcessError("it was killed")


def _finish(pid: int, stage: str) -> int:
    try:
        namespaces.enter(pid, ("user", "ipc", "mnt", "pid"))
        linux.unmount(stage)
        return max(process.wait(process.fork(_finish_inside)), 0)
    except OSError as error:
        return error.errno or 1


def _finish_inside() -> int:
    """In a child, as only that is in the pid namespace."""
    try:
        make_of_namespaces()
    except OSError as error:
        return error.errno or 1
    return 0
