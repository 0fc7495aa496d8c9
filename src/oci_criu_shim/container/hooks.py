"""Run OCI hooks around a restore (the specification's config.md, POSIX-platform Hooks; runtime.md, Lifecycle).

crun runs the hooks of containers that it creates; those of a restored container are left to us.
"""

from __future__ import annotations

import json
import os
import signal

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import namespaces, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.files import Document

    Hooks = Mapping[str, list[Document]]  # config.json's, by their kind

# In the order of entry: the user namespace gives the right to enter the others.
NAMESPACES = ("user", "ipc", "uts", "net", "cgroup", "time", "pid", "mnt")
HINT = "correct it, or leave it out of config.json's hooks"


def run(hooks: Hooks, kind: str, state: Document, inside: int | None = None) -> None:
    """Run the hooks of one `kind` ("createRuntime", …) in their order. Raise ShimError at the first that fails.

    `state` is the container's. If `inside` is a pid, the hooks run in the namespaces of that process.
    """
    for hook in hooks.get(kind, []):
        _run_one(hook, kind, json.dumps(state).encode(), inside)


def warnings(hooks: Hooks, kind: str, state: Document) -> list[str]:
    """Run all hooks of one `kind` ("poststart", "poststop"); return a warning for each that failed."""
    found = []
    for hook in hooks.get(kind, []):
        try:
            run({kind: [hook]}, kind, state)
        except ShimError as error:
            found.append(str(error))
    return found


def _run_one(hook: Document, kind: str, state: bytes, inside: int | None) -> None:
    reader, writer = os.pipe()
    try:
        child = process.fork(lambda: _start(hook, reader, writer, inside))
    finally:
        os.close(reader)
    try:
        os.write(writer, state)
    except BrokenPipeError:
        pass  # a hook need not read the state
    finally:
        os.close(writer)
    if not _ended_within(child, hook.get("timeout")):
        raise ShimError(f"the {kind} hook {hook['path']} took longer than {hook['timeout']} s", HINT)
    status = process.wait(child)
    if status:
        how = f"exited with {status}" if status > 0 else f"was ended by signal {-status}"
        raise ShimError(f"the {kind} hook {hook['path']} {how}", HINT)


def _start(hook: Document, reader: int, writer: int, inside: int | None) -> int:
    """Run the hook from a child that leads a process group; return its status as a shell gives it.

    The hook is a child in turn, since only children enter a pid namespace.
    """
    os.setpgid(0, 0)
    os.close(writer)
    try:
        if inside is not None:
            namespaces.enter(inside, NAMESPACES)  # its root becomes ours
        env = dict(entry.partition("=")[::2] for entry in hook.get("env", []))
        argv = hook.get("args") or [hook["path"]]
        pid = process.spawn(argv, env, {0: reader, 1: 2, 2: 2}, program=hook["path"])
    except OSError as error:
        os.write(2, f"{hook['path']}: {error.strerror}\n".encode())
        return 127
    os.close(reader)
    status = process.wait(pid)
    return status if status >= 0 else 128 - status


def _ended_within(child: int, seconds: float | None) -> bool:
    """Wait for the child, for `seconds` at most unless that is None; kill its group if it takes longer.

    Return whether it ended in time.
    """
    if seconds is None or process.ends_within(child, seconds):
        return True
    os.killpg(child, signal.SIGKILL)
    process.wait(child)
    return False
