"""OCI hooks around a restore (the specification's config.md, POSIX-platform Hooks; runtime.md, Lifecycle).

crun runs those of a container that it creates; a restored one has nobody else.
"""

from __future__ import annotations

import json
import os
import select
import signal

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


# In the order in which they are entered: the user namespace gives the right to the others.
NAMESPACES = ("user", "ipc", "uts", "net", "cgroup", "time", "pid", "mnt")
HINT = "correct it, or leave it out of config.json's hooks"


def run(hooks: Mapping[str, Any], kind: str, state: Mapping[str, Any], inside: int | None = None) -> None:
    """Run the hooks of one `kind` ("createRuntime", …) in their order; ShimError at the first that fails.

    `state` is the container's; with `inside` they run in the namespaces of that process.
    """
    for hook in hooks.get(kind, []):
        _run_one(hook, kind, json.dumps(state).encode(), inside)


def warnings(hooks: Mapping[str, Any], kind: str, state: Mapping[str, Any]) -> list[str]:
    """Run them all ("poststart", "poststop"); what those that failed are to be warned of."""
    found = []
    for hook in hooks.get(kind, []):
        try:
            run({kind: [hook]}, kind, state)
        except ShimError as error:
            found.append(str(error))
    return found


def _run_one(hook: Mapping[str, Any], kind: str, state: bytes, inside: int | None) -> None:
    reader, writer = os.pipe()
    try:
        child = process.fork(lambda: _start(hook, reader, writer, inside))
    finally:
        os.close(reader)
    try:
        os.write(writer, state)
    except BrokenPipeError:
        pass  # it need not read its state
    finally:
        os.close(writer)
    if not _ended_within(child, hook.get("timeout")):
        raise ShimError(f"the {kind} hook {hook['path']} took longer than {hook['timeout']} s", HINT)
    status = process.wait(child)
    if status:
        how = f"exited with {status}" if status > 0 else f"was ended by signal {-status}"
        raise ShimError(f"the {kind} hook {hook['path']} {how}", HINT)


def _start(hook: Mapping[str, Any], reader: int, writer: int, inside: int | None) -> int:
    """In a child, which leads a process group of its own: the hook, as a child once more (only children
    enter a pid namespace); its status as a shell gives it."""
    os.setpgid(0, 0)
    os.close(writer)
    try:
        if inside is not None:
            enter(inside)
        env = dict(entry.partition("=")[::2] for entry in hook.get("env", []))
        argv = hook.get("args") or [hook["path"]]
        pid = process.spawn(argv, env, {0: reader, 1: 2, 2: 2}, program=hook["path"])
    except OSError as error:
        os.write(2, f"{hook['path']}: {error.strerror}\n".encode())
        return 127
    os.close(reader)
    status = process.wait(pid)
    return status if status >= 0 else 128 - status


def enter(pid: int) -> None:
    """Enter all namespaces of a process that are not ours already; its root becomes ours."""
    handles = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES if not _shared(pid, name)]
    for handle in handles:  # all are open before the first is entered: /proc may be another one then
        linux.enter(handle)
        os.close(handle)


def _shared(pid: int, name: str) -> bool:
    return os.stat(f"/proc/{pid}/ns/{name}").st_ino == os.stat(f"/proc/self/ns/{name}").st_ino


def _ended_within(child: int, seconds: float | None) -> bool:
    """Whether the child ends in time (None: any); it is killed, with all of its group, where it doesn't."""
    if seconds is None:
        return True
    handle = os.pidfd_open(child)
    try:
        ended = bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        process.wait(child)
    return ended
