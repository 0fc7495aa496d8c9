"""Run a function as root of a private user namespace, so that the modes of the user's own files don't stop it.

A child runs it, with all capabilities in that namespace, over files of the user and the user's group. The root of a
user's container isn't stopped by their modes either.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.errors import Misfit, ShimError, line_of
from oci_criu_shim.host import linux, process
from oci_criu_shim.host.quick import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.files import Document, Json


HINT = "are unprivileged user namespaces allowed on this node? (user.max_user_namespaces)"


class Child:
    """A child that does `work`, whose result is JSON."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.answer, writer = os.pipe()
        self.pid: int | None = process.fork(lambda: _run(work, writer))
        os.close(writer)

    def result(self) -> Json:
        """Wait for the child, and return the result, once.

        Raise Misfit if `work` raised it, ShimError if it raised another one or OSError.
        """
        with open(self.answer, encoding="utf-8") as stream:
            text = stream.read()
        pid, self.pid = self.pid, None
        status = process.wait(pid) if pid else 0
        if not text:
            raise ShimError(f"a child process ended with {status}")
        found = files.parse_json(text)
        if "error" in found:
            raise (Misfit if found["misfit"] else ShimError)(found["error"], found["hint"])
        return found["result"]

    def end(self) -> None:
        """Kill the child, however far it has come."""
        if self.pid:
            os.close(self.answer)
            os.kill(self.pid, signal.SIGKILL)
            process.wait(self.pid)
            self.pid = None


def _run(work: Callable[[], object], writer: int) -> int:
    found: Document
    try:
        if os.geteuid():
            enter()
        linux.end_with_parent()
        found = {"result": work()}
    except ShimError as error:
        found = {"error": str(error), "hint": error.hint, "misfit": isinstance(error, Misfit)}
    except OSError as error:
        found = {"error": line_of(error), "hint": "", "misfit": False}
    with open(writer, "w", encoding="utf-8") as stream:
        stream.write(files.to_json(found))
    return 0


def enter() -> None:
    """Enter a new user namespace in which the user and their group keep their numbers."""
    ids = {"uid_map": os.geteuid(), "gid_map": os.getegid()}
    linux.unshare(linux.CLONE_NEWUSER)
    for name, text in {"setgroups": "deny", **{name: f"{number} {number} 1" for name, number in ids.items()}}.items():
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as stream:
            stream.write(text)
