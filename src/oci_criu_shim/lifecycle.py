"""One container's life under `run`: start it (CREATE or RESTORE), supervise it, clear up."""

from __future__ import annotations

import os

from oci_criu_shim import bundle, job, process, supervise
from oci_criu_shim.errors import ShimError
from oci_criu_shim.runtime import Runtime
from oci_criu_shim.signals import Signals
from oci_criu_shim.stdio import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.bundle import Bundle
    from oci_criu_shim.checkpoints.store import Checkpoint, Store
    from oci_criu_shim.config import Settings
    from oci_criu_shim.container import Container
    from oci_criu_shim.job import Task
    from oci_criu_shim.log import Log


def run(container: Container, path: str, options: list[str], log: Log) -> int:
    """Run the bundle at `path` as `container` in the foreground; the container's exit status.

    `options` are passed on to the backend. A restarted Slurm task goes on from its checkpoint.
    """
    loaded = bundle.load(path)
    task = job.of(loaded.environment())
    runtime = Runtime("crun", log)
    container.reserve()
    try:
        if task is None or not task.asked:
            return _create(container, loaded, runtime, options, None, log)
        return _run_task(container, loaded, runtime, options, task, log)
    finally:
        runtime.delete(container)
        container.release()


def restore(container: Container, path: str, checkpoint: Checkpoint, log: Log) -> int:
    """Run `checkpoint` as `container` in the foreground; the container's exit status."""
    loaded = bundle.load(path)
    container.reserve()
    try:
        return _restore(container, loaded, checkpoint, None, log)
    finally:
        container.release()


def _run_task(
    container: Container, loaded: Bundle, runtime: Runtime, options: list[str], task: Task, log: Log
) -> int:
    """A task that asked for checkpoints."""
    from oci_criu_shim import config, preempt

    settings = config.load()
    bundle.check_checkpointable(loaded)
    store = preempt.open_store(task, settings)
    if task.directory is None:
        os.makedirs(settings.checkpoint_dir, mode=0o700, exist_ok=True)
    store.prepare()
    status = _start_or_go_on(container, loaded, runtime, options, task, store, settings, log)
    if status == 0:
        store.clear()  # the work is done; nobody needs them any more
    return status


def _start_or_go_on(
    container: Container,
    loaded: Bundle,
    runtime: Runtime,
    options: list[str],
    task: Task,
    store: Store,
    settings: Settings,
    log: Log,
) -> int:
    """The fallback ladder: newest checkpoint, older ones, a fresh start where allowed, an error."""
    if not task.restarts or not store.started():
        store.mark_started()
        return _create(container, loaded, runtime, options, task, log)
    for found in store.newest_first():
        try:
            if isinstance(found, ShimError):
                raise found
            return _restore(container, loaded, found, task, log)
        except ShimError as error:
            log.error(f"{task.describe()}: {error.line()}")
    if settings.fresh_start:
        log.event(f"{task.describe()} starts from its beginning: it has no checkpoint to go on from")
        return _create(container, loaded, runtime, options, task, log)
    raise ShimError(
        f"{task.describe()} was restarted, and has no checkpoint in {store.path} to go on from",
        "resubmit it, or have the site set fresh-start = true in config.toml",
    )


def _create(
    container: Container,
    loaded: Bundle,
    runtime: Runtime,
    options: list[str],
    task: Task | None,
    log: Log,
) -> int:
    if loaded.terminal:
        return _create_with_terminal(container, loaded, runtime, options)
    stdio = Stdio()
    signals = Signals()
    _record(container, loaded, stdio)
    main = runtime.run(container, loaded, options, stdio.inside)
    return _supervise(container, main, stdio, signals, task, log)


def _create_with_terminal(
    container: Container, loaded: Bundle, runtime: Runtime, options: list[str]
) -> int:
    """The backend keeps the terminal that it was started on."""
    main = runtime.run(container, loaded, options, {0: 0, 1: 1, 2: 2})
    status = process.wait(main)
    return status if status >= 0 else 128 - status


def _restore(
    container: Container, loaded: Bundle, checkpoint: Checkpoint, task: Task | None, log: Log
) -> int:
    from oci_criu_shim import restore as restoring

    stdio = Stdio(restoring.pending_input(checkpoint))
    signals = Signals()
    record = _record(container, loaded, stdio)
    try:
        started = restoring.start(container, loaded, checkpoint, stdio)
    except ShimError:
        restoring.undo(container)
        raise
    container.save({**record, "pid": started, "started": process.start_time(started)})
    where = task.describe() if task else container.name
    log.event(f"restored {where} from {checkpoint.path} on {os.uname().nodename}")
    return _supervise(container, started, stdio, signals, task, log)


def _record(container: Container, loaded: Bundle, stdio: Stdio) -> dict[str, object]:
    """Write what other verbs must know of the container, before it starts."""
    pid = os.getpid()
    record: dict[str, object] = {
        "ociVersion": loaded.config["ociVersion"],
        "bundle": loaded.path,
        "annotations": loaded.config.get("annotations", {}),
        "supervisor": pid,
        "supervisor_started": process.start_time(pid),
        "stdio": stdio.record(),
        "config": loaded.config,
    }
    container.save(record)
    with open(container.path("pid"), "w", encoding="ascii") as stream:
        stream.write(str(pid))
    return record


def _supervise(
    container: Container,
    main: int,
    stdio: Stdio,
    signals: Signals,
    task: Task | None,
    log: Log,
) -> int:
    stdio.started()
    checkpoint = None
    if task is not None and task.asked:

        def checkpoint() -> int:
            from oci_criu_shim import preempt

            return preempt.on_signal(container, task, log)

    return supervise.Supervisor(container, main, stdio, signals, checkpoint).run()
