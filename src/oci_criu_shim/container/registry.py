"""Look up the containers below a root directory: their ids, their backends and their states."""

from __future__ import annotations

import os
import time

from oci_criu_shim.container import backends
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.record import Container, all_of, is_id
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oci_criu_shim.files import Document
    from oci_criu_shim.log import Log

END_SECONDS = 10.0  # for a container to end


def exists(container: Container) -> bool:
    """Whether the id is taken, by a container of ours or a backend's."""
    return container.exists() or backends.holder(container.root, container.name) is not None


def require_free(container: Container) -> None:
    """Raise ShimError if another container has the id, or none can be kept in the directory of its job."""
    if not os.access(container.root, os.W_OK | os.X_OK):
        from oci_criu_shim.slurm import rundir

        rundir.require_no_jobs(container.root)
    if exists(container):
        raise container.taken_error()


def reserve(container: Container) -> None:
    """Take the id. Raise ShimError if another container has it."""
    require_free(container)
    container.reserve()


def default_backend(root: str, globals: Mapping[str, str], log: Log) -> Backend:
    """Return the backend that the command line or the site names, for a verb without a bundle."""
    from oci_criu_shim import config

    return Backend(globals.get("backend") or config.backend() or backends.DEFAULT, root, globals, log)


def backend_of(container: Container, globals: Mapping[str, str], log: Log) -> Backend:
    """Return the backend that keeps `container`. Raise ShimError if there is no such container."""
    if not exists(container):
        raise ShimError(
            f"container {container.name!r} does not exist",
            f"those that do are listed by `oci-criu-shim --root {container.root} list`",
        )
    record = container.load()
    program = record.get("backend") or backends.holder(container.root, container.name) or backends.DEFAULT
    return Backend(program, container.root, globals, log, record.get("dialect"))


def names(root: str) -> list[str]:
    """Return the ids of all containers below `root`."""
    found = {container.name for container in all_of(root)}
    for program in backends.programs(root):
        found.update(name for name in os.listdir(backends.directory(root, program)) if is_id(name))
    return sorted(found)


def states(root: str, globals: Mapping[str, str], log: Log) -> list[Document]:
    """Return the states of all containers below `root`; leave out those that go meanwhile."""
    found = []
    for name in names(root):
        container = Container(root, name)
        try:
            found.append(state(container, backend_of(container, globals, log)))
        except ShimError:
            if not _goes(container):
                raise
    return found


def _goes(container: Container) -> bool:
    """Whether it goes in time: the backend forgets a container before its supervisor does."""
    return in_time(lambda: not exists(container))


def is_the_backends(container: Container, backend: Backend) -> bool:
    """Whether the backend can answer for it: it was created, and is not held for a restore."""
    return backend.knows(container) and not container.load().get("held")


def state(container: Container, backend: Backend) -> Document:
    """Return the state that the OCI runtime specification asks for (runtime.md, State)."""
    if is_the_backends(container, backend):
        return backend.state(container)
    supervisor = holder(container)
    if supervisor:
        return container.state("created", supervisor)
    return container.state("creating" if container.alive("supervisor") else "stopped", 0)


def holder(container: Container) -> int | None:
    """Return the pid of the supervisor that holds the container for a restore; None if none does."""
    return container.alive("supervisor") if container.load().get("held") else None


def init_of(container: Container, backend: Backend) -> int:
    """Return the pid of the running container's init. Raise ShimError if its program does not run."""
    pid = container.alive("init")
    if backend.knows(container):
        state = backend.state(container)
        if state["status"] == "created":
            raise ShimError(f"container {container.name!r} is not running yet", "start it first")
        pid = pid or state.get("pid")
    if not pid:
        raise not_running(container)
    return pid


def not_running(container: Container) -> ShimError:
    """Return the error for a verb that needs a running container."""
    if holder(container):
        return ShimError(f"container {container.name!r} is not running yet", "start it first")
    hint = f"`oci-criu-shim --root {container.root} state {container.name}` says what became of it"
    return ShimError(f"container {container.name!r} is not running", hint)


def in_time(over: Callable[[], bool]) -> bool:
    """Wait until over() is true, for END_SECONDS at most; return whether it became true."""
    limit = time.monotonic() + END_SECONDS
    while not over():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True
