"""Work on the user's own files that not even their modes keep from him, as they don't keep the root of his containers.

It is done by a child in a user namespace, with all capabilities there, over what belongs to the user and his group.
"""

from __future__ import annotations

import json
import os
import signal

from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Child:
    """Does `work`, and its result, a JSON document, can be had once."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.answer, writer = os.pipe()
        self.pid: int | None = process.fork(lambda: _run(work, writer))
        os.close(writer)

    def result(self) -> Any:
        """Wait for it; ShimError, Misfit where it raised that, or OSError."""
        with open(self.answer, encoding="utf-8") as stream:
            text = stream.read()
        pid, self.pid = self.pid, None
        status = process.wait(pid) if pid else 0
        if not text:
            raise ShimError(f"a process of ours ended with {status}")
        found = json.loads(text)
        if "error" in found:
            raise (Misfit if found["misfit"] else ShimError)(found["error"], found["hint"])
        return found["result"]

    def end(self) -> None:
        """End it, wherever it is."""
        if self.pid:
            os.close(self.answer)
            os.kill(self.pid, signal.SIGKILL)
            process.wait(self.pid)
            self.pid = None


def _run(work: Callable[[], Any], writer: int) -> int:
    try:
        if os.geteuid():
            _enter()
        linux.end_with_parent()
        found = {"result": work()}
    except (ShimError, OSError) as error:
        found = {"error": str(error), "hint": getattr(error, "hint", ""), "misfit": isinstance(error, Misfit)}
    with open(writer, "w", encoding="utf-8") as stream:
        json.dump(found, stream)
    return 0


def _enter() -> None:
    """A user namespace in which the user and his group are who they are."""
    ids = {"uid_map": os.geteuid(), "gid_map": os.getegid()}
    linux.unshare(linux.CLONE_NEWUSER)
    for name, text in {"setgroups": "deny", **{name: f"{number} {number} 1" for name, number in ids.items()}}.items():
        with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
            stream.write(text)
