"""The verbs: each handler takes the parsed command line and makes one call."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from oci_criu_shim import signals
from oci_criu_shim.container import Container
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli import Invocation

END_SECONDS = 10.0


def run(call: Invocation) -> int:
    """Create and start a container, and wait for its end."""
    from oci_criu_shim import lifecycle

    passed = [f"--{name}" for name in ("no-pivot", "no-new-keyring") if call.flag(name)]
    if call.value("preserve-fds"):
        passed += ["--preserve-fds", call.text("preserve-fds")]
    container = Container(call.root, call.container)
    return lifecycle.run(container, call.value("bundle") or ".", passed, call.log)


def state(call: Invocation) -> int:
    """Print a container's state as JSON."""
    container = Container(call.root, call.container)
    container.require()
    print(json.dumps(container.state(), indent=2))
    return 0


def kill(call: Invocation) -> int:
    """Send a signal to a container's init."""
    container = Container(call.root, call.container)
    container.require()
    name = call.optional or "TERM"
    try:
        number = signals.parse(name)
    except (ValueError, KeyError):
        raise ShimError(f"invalid signal {name!r}", "name one, or its number: kill -l") from None
    pid = container.init()
    if pid is None:
        raise ShimError(f"container {container.name!r} is not running")
    os.kill(pid, number)
    return 0


def delete(call: Invocation) -> int:
    """Remove what is left of a stopped container."""
    from oci_criu_shim.runtime import Runtime

    container = Container(call.root, call.container)
    if call.flag("force") and not os.path.isdir(container.directory):
        return 0
    container.require()
    if container.init() is not None or container.supervisor() is not None:
        if not call.flag("force"):
            raise ShimError(f"container {container.name!r} is not stopped", "add --force to end it")
        _end(container)
    Runtime("crun", call.log).delete(container)
    container.release()
    return 0


def _end(container: Container) -> None:
    """Kill the container, then give its supervisor the time to clear up after it."""
    pid = container.init() or container.supervisor()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    limit = time.monotonic() + END_SECONDS
    while container.init() is not None or container.supervisor() is not None:
        if time.monotonic() > limit:
            raise ShimError(f"container {container.name!r} does not end")
        time.sleep(0.01)


def checkpoint(call: Invocation) -> int:
    """Checkpoint a running container into a directory."""
    from oci_criu_shim import checkpoint as checkpointing
    from oci_criu_shim import job
    from oci_criu_shim.checkpoints.store import Store

    container = Container(call.root, call.container)
    container.require()
    directory = os.path.abspath(call.value("image-path") or "checkpoint")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    environment = container.load().get("config", {}).get("process", {}).get("env", [])
    task = job.of(dict(entry.partition("=")[::2] for entry in environment))
    helper = job.helper_socket(container.root, task) if task else None
    store = Store(directory, ".")
    store.prepare()
    taken = checkpointing.take(container, store, helper, "demand", call.flag("leave-running"))
    call.log.event(f"checkpointed {container.name} to {taken.describe()}")
    return 0


def restore(call: Invocation) -> int:
    """Restore a container from a directory that `checkpoint` wrote, and wait for its end."""
    from oci_criu_shim import lifecycle
    from oci_criu_shim.checkpoints.store import Store

    directory = os.path.abspath(call.value("image-path") or "checkpoint")
    container = Container(call.root, call.container)
    for found in Store(directory, ".").newest_first():
        if isinstance(found, ShimError):
            raise found
        return lifecycle.restore(container, call.value("bundle") or ".", found, call.log)
    raise ShimError(f"no checkpoint in {directory}", "`oci-criu-shim checkpoint` makes one")


def version() -> int:
    """Print the version."""
    from oci_criu_shim import __version__

    sys.stdout.write(f"oci-criu-shim version {__version__}\nspec: 1.2.0\n")
    return 0
