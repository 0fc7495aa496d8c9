"""Try things as a user of this node, in that user's own user namespace, as a restore does them."""

from __future__ import annotations

import errno
import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534


def run(work: Callable[[], None]) -> str:
    """Run `work` in a child; return what went wrong, in words, empty if nothing did."""
    reader, writer = os.pipe()

    def child() -> int:
        try:
            _enter()
            work()
        except ShimError as error:
            os.write(writer, str(error).encode())
        except OSError as error:
            os.write(writer, f"{error.filename}: {error.strerror}".encode())
        return 0

    pid = process.fork(child)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        text = stream.read()
    status = process.wait(pid)
    return text or (f"exit status {status}" if status else "")


def _enter() -> None:
    """Enter a user namespace; as nobody if we are root, since root is forbidden nothing."""
    if os.geteuid() == 0:
        _become_nobody()
    os.chdir("/")  # CRIU opens the current directory
    maps = {"setgroups": b"deny", "uid_map": b"0 %d 1" % os.geteuid(), "gid_map": b"0 %d 1" % os.getegid()}
    linux.unshare(linux.CLONE_NEWUSER)
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "wb") as stream:
            stream.write(text)


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError as error:
        # Root of a user namespace that has no other ids is a user already.
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
    linux.make_dumpable()  # or /proc/self is root's after the change
