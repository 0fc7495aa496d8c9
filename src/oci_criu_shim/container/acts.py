"""Start, signal and remove containers that exist."""

from __future__ import annotations

import os
import time

from oci_criu_shim.container import registry
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.backends import Backend
    from oci_criu_shim.container.record import Container


def start(container: Container, backend: Backend) -> int:
    """Start the program of a created container; return the exit status."""
    if not container.load().get("held"):
        return backend.call("start", container.name)
    from oci_criu_shim.host.signals import START

    supervisor = container.alive("supervisor")
    if supervisor is None:
        raise ShimError(
            f"container {container.name!r} has nobody left to restore it",
            f"remove it, and create it again: `oci-criu-shim --root {container.root} delete {container.name}`",
        )
    os.kill(supervisor, START)
    while container.load().get("held"):
        if container.alive("supervisor") is None:
            return 1
        time.sleep(0.01)
    return 0 if container.exists() else 1


def signal_itself(container: Container, backend: Backend, number: int, to_all: bool) -> bool:
    """Send a signal if the backend can't: to a held container, or to all processes of a pid namespace.

    Return whether it was sent. Raise ShimError if there is no process to send it to.
    """
    if not registry.is_the_backends(container, backend):
        _signal_held(container, number)
        return True
    if not to_all:
        return False
    from oci_criu_shim.host import pidns

    pid = backend.state(container).get("pid")
    if not pid or not pidns.is_led_by(pid):
        return False
    pidns.signal(pid, number)
    return True


def _signal_held(container: Container, number: int) -> None:
    """End a held container if the signal would end a program: there is none yet to take it."""
    supervisor = registry.holder(container)
    if supervisor is None:
        raise registry.not_running(container)
    import signal

    from oci_criu_shim.host.signals import HARMLESS, STOPPING

    if number and number not in (*HARMLESS, *STOPPING):
        os.kill(supervisor, signal.SIGKILL)


def delete(container: Container, backend: Backend, force: bool) -> int:
    """Remove a stopped container, or any with `force`; return the exit status."""
    ended = "init" in container.load() and container.alive("init") is None
    if container.alive("supervisor") and not (ended and _is_left(container)):
        if not force:
            raise ShimError(f"container {container.name!r} is not stopped", "add --force to end it")
        _end(container)
    status = 0
    if backend.knows(container):
        status = backend.call("delete", *(["--force"] if force else []), container.name)
        if not backend.knows(container):
            status = 0  # its `run` was faster, which crun's `delete` takes for a failure
    if not status:
        container.release()
    return status


def forget(container: Container, backend: Backend, pid: int) -> None:
    """Remove a container whose init, `pid`, was ended by a dump: the checkpoint is all that is left of it."""
    if not registry.in_time(lambda: process.start_time(pid) is None):
        raise _endless(container)
    record = container.load()
    if container.alive("supervisor") and (not _is_left(container) or container.load() != record):
        return  # the supervisor removes it, unless that runs in the background
    if backend.knows(container):
        backend.output("delete", "--force", container.name)
    container.release()


def _end(container: Container) -> None:
    """End the container, and wait until its supervisor has cleared up."""
    import signal

    pid = container.alive("init") or container.alive("supervisor")
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    if not _is_left(container):
        raise _endless(container)


def _endless(container: Container) -> ShimError:
    return ShimError(
        f"container {container.name!r} does not end",
        "a process may hang in the kernel, on a file system that does not answer, say (ps: state D); try again",
    )


def _is_left(container: Container) -> bool:
    """Return whether the supervisor of a container that has ended ends in time."""
    return registry.in_time(lambda: container.alive("supervisor") is None)
