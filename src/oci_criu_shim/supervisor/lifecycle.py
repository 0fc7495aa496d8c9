"""A container from its start (CREATE or RESTORE) to its end.

A container that can be checkpointed has a supervisor: this process under `run`, a process in the background after
`create`. Any other is the backend's alone.
"""

from __future__ import annotations

import os
import time

from oci_criu_shim.container import backends, bundle
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.record import Container, all_of, is_id
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.log import Log
    from oci_criu_shim.restore.plan import Asked
    from oci_criu_shim.slurm.tasks import Task

END_SECONDS = 10.0


class Plan:
    """What is to be started, and how: `options` are the backend's; the init's pid is written to `pid_file`."""

    def __init__(
        self,
        container: Container,
        path: str,
        globals: Mapping[str, str],
        options: list[str],
        pid_file: str | None,
        log: Log,
        config: str | None = None,
    ) -> None:
        self.container = container
        self.bundle: Bundle = bundle.load(path, config)
        program = backends.choose(globals.get("backend"), self.bundle)
        self.backend = Backend(program, container.root, globals, log)
        self.backend.require("create", options)
        self.pid_file = pid_file
        self.options = [f"--bundle={self.bundle.path}", *options, container.name]
        self.preserved = _preserved(options)
        self.task: Task | None = tasks.of(self.bundle.environment())
        self.log = log

    @property
    def supervised(self) -> bool:
        """Whether it is to be checkpointed: its job asked for that, or root may want to, who needs no helper."""
        if self.task is not None:
            return self.task.asked
        return os.geteuid() == 0

    @property
    def own_group(self) -> bool:
        """Whether it is an ordinary user's, with a control group of its own."""
        return os.geteuid() != 0 and self.backend.makes_groups

    @property
    def proxy(self) -> str | None:
        """The socket of its task's proxy; None where Slurm has none, and its streams are ours."""
        path = tasks.proxy_socket(self.container.root, self.task) if self.task else None
        return path if path and os.path.exists(path) else None

    @property
    def relays_terminal(self) -> bool:
        """Whether the container's terminal is copied to ours, and not handed over at a socket of the caller's."""
        return self.bundle.terminal and not any(word.startswith("--console-socket=") for word in self.options)

    def record(self, **fields: object) -> dict[str, Any]:
        """What other verbs must know of the container (Container.save())."""
        about: dict[str, Any] = {"restarts": self.task.restarts} if self.task else {}  # the environment may not tell
        about |= {"preserved": self.preserved, "own_group": self.own_group, **self.backend.record()}
        return {"bundle": self.bundle.path, "config": self.bundle.config, **about, **fields}


def _preserved(options: list[str]) -> list[str]:
    """Where the caller's descriptors lead that --preserve-fds hands on to the container."""
    for word in options:
        name, _, count = word.partition("=")
        if name == "--preserve-fds" and count.isdecimal():
            last = 2 + int(count)
            return [_stream(number) for number in map(int, os.listdir("/proc/self/fd")) if 2 < number <= last]
    return []


def run(plan: Plan, keep: bool = False) -> int:
    """Run the container in the foreground; its exit status. With `keep` it is left, stopped."""
    if not plan.supervised:
        # No record of ours: nobody could remove it when the container has ended.
        _require_free(plan.container)
        plan.backend.become("run", *(["--keep"] if keep else []), *_pid_file(plan), *plan.options)
    _reserve(plan.container)
    from oci_criu_shim.supervisor.launch import Supervised

    return Supervised(plan).run(keep)


def _pid_file(plan: Plan) -> list[str]:
    return [f"--pid-file={plan.pid_file}"] if plan.pid_file else []


def restore(plan: Plan, checkpoint: Checkpoint, asked: Asked) -> int:
    """Run `checkpoint` as the container in the foreground; its exit status."""
    _reserve(plan.container)
    from oci_criu_shim.supervisor.launch import Supervised

    return Supervised(plan).restore(checkpoint, asked)


def restore_detached(plan: Plan, checkpoint: Checkpoint, asked: Asked, console: str | None) -> int:
    """Have `checkpoint` run as the container, and leave it to the caller, who takes its terminal at the socket
    `console`; the exit status."""
    from oci_criu_shim.restore import restore
    from oci_criu_shim.supervisor import detached

    if plan.bundle.terminal and not console:
        raise ShimError("the container has a terminal, which somebody must take", "name a --console-socket")
    streams = detached.Streams(console, checkpoint.manifest["streams"], restore.pending_input(checkpoint))
    _reserve(plan.container)
    return detached.start(plan, checkpoint, asked, streams)


def create(plan: Plan) -> int:
    """Create the container and leave it to `start`; the exit status."""
    if plan.task is not None and (plan.supervised or plan.proxy):
        _reserve(plan.container)
        from oci_criu_shim.supervisor.launch import Supervised

        return Supervised(plan).create_in_background()
    return _backend_creates(plan, "create")


def run_detached(plan: Plan) -> int:
    """Create and start the container; the exit status."""
    if plan.task is not None and plan.supervised:
        return create(plan) or start(plan.container, plan.backend)
    return _backend_creates(plan, "run", "--detach")


def _backend_creates(plan: Plan, verb: str, *words: str) -> int:
    """Have the backend create the container on our own streams; it forgets a container that it could not create."""
    plan.backend.argv(verb)  # where it is not there, no id is taken
    _reserve(plan.container)
    streams = ["" if plan.bundle.terminal else _stream(number) for number in range(3)]
    plan.container.save(plan.record(stdio={"streams": streams}))
    status = plan.backend.call(verb, *words, *_pid_file(plan), *plan.options)
    if status:
        plan.container.release()
    return status


def _stream(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def _reserve(container: Container) -> None:
    """Take the id; ShimError where another container has it."""
    _require_free(container)
    container.reserve()


def exists(container: Container) -> bool:
    """Whether the id is taken, by a container of ours or a backend's."""
    return container.exists() or backends.holder(container.root, container.name) is not None


def _require_free(container: Container) -> None:
    if exists(container):
        raise ShimError(
            f"container {container.name!r} already exists",
            f"choose another id, or end it first: oci-criu-shim delete --force {container.name}",
        )


def default_backend(root: str, globals: Mapping[str, str], log: Log) -> Backend:
    """The backend where no bundle has a say."""
    from oci_criu_shim import config

    return Backend(globals.get("backend") or config.backend() or backends.DEFAULT, root, globals, log)


def backend_of(container: Container, globals: Mapping[str, str], log: Log) -> Backend:
    """The backend that looks after `container`; ShimError where there is no such container."""
    if not exists(container):
        raise ShimError(
            f"container {container.name!r} does not exist",
            f"those that do are listed by `oci-criu-shim --root {container.root} list`",
        )
    record = container.load()
    program = record.get("backend") or backends.holder(container.root, container.name) or backends.DEFAULT
    return Backend(program, container.root, globals, log, record.get("dialect"))


def names(root: str) -> list[str]:
    """The ids of all containers below `root`."""
    found = {container.name for container in all_of(root)}
    for program in backends.programs(root):
        found.update(name for name in os.listdir(backends.directory(root, program)) if is_id(name))
    return sorted(found)


def states(root: str, globals: Mapping[str, str], log: Log) -> list[dict[str, Any]]:
    """The states of all containers below `root`; one that goes meanwhile is left out."""
    found = []
    for name in names(root):
        container = Container(root, name)
        try:
            found.append(state(container, backend_of(container, globals, log)))
        except ShimError:
            if not _is_gone(container):
                raise
    return found


def is_the_backends(container: Container, backend: Backend) -> bool:
    """Whether the backend can answer for it: it has been created, and is not held for a restore."""
    return backend.knows(container) and not container.load().get("held")


def state(container: Container, backend: Backend) -> dict[str, Any]:
    """The state that the OCI runtime specification asks for (runtime.md, State)."""
    if is_the_backends(container, backend):
        return backend.state(container)
    holder = _holder(container)
    if holder:
        return container.state("created", holder)
    return container.state("creating" if container.alive("supervisor") else "stopped", 0)


def _holder(container: Container) -> int | None:
    """The supervisor of one that is held for a restore; None where none is, or it has ended."""
    return container.alive("supervisor") if container.load().get("held") else None


def not_running(container: Container) -> ShimError:
    """What is said of a container whose program a verb needs, and which does not run."""
    if _holder(container):
        return ShimError(f"container {container.name!r} is not running yet", "start it first")
    hint = f"`oci-criu-shim --root {container.root} state {container.name}` says what became of it"
    return ShimError(f"container {container.name!r} is not running", hint)


def signal_itself(container: Container, backend: Backend, number: int, to_all: bool) -> bool:
    """Send a signal where the backend can't: to one that is held, or to all in a pid namespace. Whether that was done;
    ShimError where there is nobody to send it to."""
    if not is_the_backends(container, backend):
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
    """What is held has no program yet that would take a signal: it ends by any that would end one."""
    holder = _holder(container)
    if holder is None:
        raise not_running(container)
    import signal

    from oci_criu_shim.host.signals import HARMLESS, STOPPING

    if number and number not in (*HARMLESS, *STOPPING):
        os.kill(holder, signal.SIGKILL)


def start(container: Container, backend: Backend) -> int:
    """Start the program of a created container; the exit status."""
    if not container.load().get("held"):
        return backend.call("start", container.name)
    from oci_criu_shim.host.signals import START

    supervisor = container.alive("supervisor")
    if supervisor is None:
        raise ShimError(
            f"container {container.name!r} has nobody left to restore it",
            f"remove it, and create it again: oci-criu-shim --root {container.root} delete {container.name}",
        )
    os.kill(supervisor, START)
    while container.load().get("held"):
        if container.alive("supervisor") is None:
            return 1
        time.sleep(0.01)
    return 0 if container.exists() else 1


def delete(container: Container, backend: Backend, force: bool) -> int:
    """Remove a stopped container, or, by `force`, any; the exit status."""
    ended = "init" in container.load() and container.alive("init") is None
    if container.alive("supervisor") and not (ended and _is_left(container)):
        if not force:
            raise ShimError(f"container {container.name!r} is not stopped", "add --force to end it")
        _end(container, backend)
    status = 0
    if backend.knows(container):
        status = backend.call("delete", *(["--force"] if force else []), container.name)
        if not backend.knows(container):
            status = 0  # its `run` was faster, which crun's `delete` takes for a failure
    if not status:
        container.release()
    return status


def forget(container: Container, backend: Backend, pid: int) -> None:
    """Remove a container whose init, `pid`, a dump has ended: the checkpoint is all that is left of it."""
    if not _in_time(lambda: process.start_time(pid) is None):
        raise _endless(container)
    record = container.load()
    if container.alive("supervisor") and (not _is_left(container) or container.load() != record):
        return  # it sees to that, but for one in the background
    if backend.knows(container):
        backend.output("delete", "--force", container.name)
    container.release()


def _endless(container: Container) -> ShimError:
    return ShimError(
        f"container {container.name!r} does not end",
        "a process of its may hang in the kernel, on a file system that does not answer, say (ps: state D); try again",
    )


def _end(container: Container, backend: Backend) -> None:
    """End the container, and give its supervisor the time to clear up after it."""
    import signal

    pid = container.alive("init") or container.alive("supervisor")
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    if not _is_left(container):
        raise _endless(container)


def _is_gone(container: Container) -> bool:
    """Whether it goes in time: the backend forgets it before its supervisor does."""
    return _in_time(lambda: not exists(container))


def _is_left(container: Container) -> bool:
    """Whether its supervisor, whose container has ended, ends in time."""
    return _in_time(lambda: container.alive("supervisor") is None)


def _in_time(over: Callable[[], bool]) -> bool:
    limit = time.monotonic() + END_SECONDS
    while not over():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def init_of(container: Container, backend: Backend) -> int:
    """The pid of the running container's init; ShimError where it does not run its program."""
    pid = container.alive("init")
    if backend.knows(container):
        state = backend.state(container)
        if state["status"] == "created":
            raise ShimError(f"container {container.name!r} is not running yet", "start it first")
        pid = pid or state.get("pid")
    if not pid:
        raise not_running(container)
    return pid
