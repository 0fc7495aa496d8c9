"""Taking one checkpoint of one running container."""

from __future__ import annotations

import base64
import os
import signal
import time

from oci_criu_shim import client, criu, files, fit, groups, job, linux, preflight, stdio, written
from oci_criu_shim.bundle import Bundle
from oci_criu_shim.container import CHAIN
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from oci_criu_shim.chain import Chain
    from oci_criu_shim.checkpoints.directory import Directory
    from oci_criu_shim.checkpoints.store import Checkpoint, Stage, Store
    from oci_criu_shim.container import Container


class Taken:
    """A committed checkpoint; `seconds` from the request to the commit, `frozen` of them frozen."""

    def __init__(self, checkpoint: Checkpoint, seconds: float) -> None:
        self.checkpoint = checkpoint
        self.seconds = seconds
        self.frozen: float = checkpoint.manifest["frozen_seconds"]
        self.at = time.time() - self.frozen

    def facts(self) -> dict[str, object]:
        """The same as describe(), for the job's history; `at` is when it froze."""
        about = {name: self.checkpoint.manifest[name] for name in ("bytes", "reason")}
        about |= {"written": self.checkpoint.written, "increment_of": self.checkpoint.parent}
        return {**about, "path": self.checkpoint.path, "seconds": self.seconds, "frozen": self.frozen, "at": self.at}

    def describe(self) -> str:
        """Where to, how big, how long, for the event line."""
        written, dumped = self.checkpoint.written / (1 << 20), self.checkpoint.dumped / (1 << 20)
        smaller = f", compressed to {written:.1f} MiB" if written != dumped else ""
        parent = f" more than {self.checkpoint.parent}" if self.checkpoint.parent else ""
        times = f"{self.seconds:.2f} s, frozen {self.frozen:.2f} s"
        return f"{self.checkpoint.path} ({dumped:.1f} MiB{parent} in {times}{smaller})"


def take(
    container: Container,
    pid: int,
    store: Store | Directory,
    helper: str | None,
    reason: str,
    options: dict[str, Any] | None = None,
    connection: socket.socket | None = None,
    serves: Callable[[], None] | None = None,
    chain: Chain | None = None,
) -> Taken:
    """Checkpoint `container`, whose init is `pid`, into `store`; ShimError or OSError, and it runs on, where that
    fails. `options` are of the worker's closed set (its check()). `connection` is one to the helper, where the caller
    has it already. `serves` is called once memory that is handed out lazily can be asked for. `chain` is what it may
    be an increment of."""
    begin = time.monotonic()
    options = options or {"leave_running": False}
    record = container.load()
    bundle = Bundle(record["bundle"], record["config"])
    preflight.check(pid, bundle, options.get("shell_job", False))
    needs = fit.needs(bundle)
    if options.get("track_mem"):
        files.remove_if_there(container.path(CHAIN))  # it takes the kernel's marks away
    connection = connection or client.connect(helper)
    pidfd = os.pidfd_open(pid)
    committed: list[Checkpoint] = []
    with store.stage() as stage:
        # Where this process is killed, the job's epilog finds by it what is to be removed.
        link = container.path(f"stage.{os.getpid()}")
        os.symlink(stage.path, link)
        directories = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (stage.images, stage.work) if path]
        # What is known already: once all is frozen, every flush counts.
        stage.describe(record["config"], _podman_record(container), _streams(record))
        if options["leave_running"]:
            written.sync(pid)
        asked = {**options, **(chain.begin(stage) if chain else {})}

        def commit(report: dict[str, Any]) -> None:
            if "for" in options:
                criu.leave_groups(stage.images)
            report = {**report, "needs": needs}
            if chain:
                chain.check(pid, stage.images)
            committed.append(_commit(container, pid, record, stage, report, reason, options["leave_running"]))

        try:
            client.dump(connection, asked, [pidfd, *directories], commit, serves)
        except ShimError:
            if not committed or options["leave_running"] or options.get("lazy_pages"):
                raise  # it runs on; what it did not hand out of its memory, nobody else has
            # It is committed, so it must not run on: what it did now would be done twice.
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            if not committed or options["leave_running"]:
                files.remove_if_there(link)
            for descriptor in (*directories, pidfd):
                os.close(descriptor)
            connection.close()
        taken = Taken(committed[0], time.monotonic() - begin)
    files.remove_if_there(link)
    if chain:
        chain.done(taken.checkpoint)
    return taken


def pre_dump(container: Container, pid: int, directory: Directory, helper: str | None, options: dict[str, Any]) -> None:
    """Write the memory of `container`, which runs on, to `directory`: a checkpoint that is built upon it is left with
    what changed meanwhile. ShimError or OSError where that fails."""
    record = container.load()
    preflight.check(pid, Bundle(record["bundle"], record["config"]))
    files.remove_if_there(container.path(CHAIN))  # it takes the kernel's marks away
    connection, stage = client.connect(helper), directory.stage()
    with stage:
        directories = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (stage.images, directory.work)]
        descriptors = [os.pidfd_open(pid), *directories]
        try:
            client.dump(connection, options, descriptors, lambda _: None)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()
        stage.keep()


def _commit(
    container: Container,
    pid: int,
    record: dict[str, Any],
    stage: Stage,
    report: dict[str, Any],
    reason: str,
    left_running: bool,
) -> Checkpoint:
    """Write what the images don't say, and commit. The container is frozen meanwhile."""
    manifest = _manifest(container, pid, record, report, reason, stage.sizes())
    if left_running:
        _require_names(stage.images)
        written.sync(pid)  # what was written since the dump began; most was before
    task = job.of(Bundle(record["bundle"], record["config"]).environment())
    about = {"restarts": task.restarts} if task else {}
    return stage.commit({**manifest, **about, "left_running": left_running, "written": written.look(pid)})


def _require_names(images: str) -> None:
    """Raise ShimError where the checkpoint of a container that runs on could not be restored: CRIU gives a file that is
    deleted and has another name a third one, and takes it away again when the dump is over."""
    if criu.names_deleted_files(images):
        raise ShimError(
            "a file is open under a name that was removed, and has another one, which is kept only for a container "
            "that ends by its checkpoint",
            "at a preemption, it is checkpointed all the same",
        )


def _outside_of_input(record: dict[str, Any]) -> str | None:
    """The supervisor's end of the container's standard input; None where it has no supervisor."""
    ends = record.get("stdio", {}).get("outside")
    return f"/proc/{record['supervisor'][0]}/fd/{ends[0]}" if ends else None


def _streams(record: dict[str, Any]) -> list[str]:
    """Where the container's standard streams lead; nowhere outside, where it has a terminal of its own."""
    streams: list[str] = record.get("stdio", {}).get("streams", ["", "", ""])
    return streams


def _manifest(
    container: Container,
    pid: int,
    record: dict[str, Any],
    report: dict[str, Any],
    reason: str,
    sizes: dict[str, int],
) -> dict[str, Any]:
    outside = _outside_of_input(record)
    pending = _unread(outside) if outside else b""
    return {
        "version": 1,
        "container": container.name,
        "created": files.timestamp(),
        "node": os.uname().nodename,
        "kernel": os.uname().release,
        "criu": report["criu"],
        "needs": report["needs"],
        "reason": reason,
        "bytes": sum(sizes.values()),
        "files": sizes,
        "streams": _streams(record),
        "input": base64.b64encode(pending).decode(),
        "clock": report["clock"],
        "external": report["external"],
        "network": report["network"],
        "uid_map": _id_map(pid, "uid"),
        "gid_map": _id_map(pid, "gid"),
        "own_cgroup": os.geteuid() == 0 and groups.has_own(pid),
        "io_priority": linux.io_priority(pid),
        "frozen_seconds": report["frozen_ns"] / 1e9,
    }


def _id_map(pid: int, kind: str) -> list[list[int]]:
    with open(f"/proc/{pid}/{kind}_map", encoding="ascii") as stream:
        return [[int(number) for number in line.split()] for line in stream]


def _podman_record(container: Container) -> dict[str, Any]:
    """config.dump as checkpointctl reads it (podman's ContainerConfig, as far as it is shown)."""
    return {
        "id": container.name,
        "name": container.name,
        "rootfsImageName": "",
        "runtime": "oci-criu-shim",
        "createdTime": files.timestamp(),
        "checkpointedTime": files.timestamp(),
    }


def _unread(path: str) -> bytes:
    """What waits in the container's standard input; nothing where the pipe is closed already."""
    try:
        return stdio.unread(path)
    except FileNotFoundError:
        return b""
