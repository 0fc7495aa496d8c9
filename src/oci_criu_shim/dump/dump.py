"""Take one checkpoint of one running container."""

from __future__ import annotations

import base64
import os
import signal
import time
from contextlib import contextmanager, nullcontext, suppress

from oci_criu_shim import files
from oci_criu_shim.checkpoints import own_files
from oci_criu_shim.checkpoints.committed import LAYER, NOTABLE_LAYER, OWN
from oci_criu_shim.container import batch_script, node_fit, stdio
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.intake import Hold
from oci_criu_shim.container.record import CHAIN, CHANGES, STAGE_LINK, living
from oci_criu_shim.dump import client, kept, open_files, rootfs
from oci_criu_shim.dump.connections import Connections
from oci_criu_shim.dump.page_server import Packing, Sending
from oci_criu_shim.dump.survey import Survey
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups, criu_images, ids, inet, linux, mounts, netlock, process, threads
from oci_criu_shim.restore import seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any, Literal

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.directory import Directory
    from oci_criu_shim.checkpoints.manifest import Closed, Draft, End
    from oci_criu_shim.checkpoints.stage import Stage
    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.container.record import Container, Record
    from oci_criu_shim.dump.chain import Link
    from oci_criu_shim.dump.known import Known
    from oci_criu_shim.transfer.local import Local
    from oci_criu_shim.transfer.sender import Peer


class Taken:
    """A checkpoint that was just committed.

    It was asked for at `begun`, by the monotonic clock, which is `seconds` ago. For `frozen` seconds the container was
    frozen, until it ran on or ended; it froze `at`, in seconds since the epoch.
    """

    def __init__(self, checkpoint: Checkpoint, frozen: float, begun: float) -> None:
        self.checkpoint = checkpoint
        self.begun = begun
        self.seconds = time.monotonic() - begun
        self.frozen = frozen
        self.at = time.time() - frozen

    def facts(self) -> dict[str, object]:
        """Return what the job's history says of it."""
        found = self.checkpoint
        about: dict[str, object] = {name: found.manifest[name] for name in ("bytes", "reason")}
        about |= {"path": found.path, "seq": found.seq, "written": found.written, "increment_of": found.parent}
        return {**about, "seconds": self.seconds, "frozen": self.frozen, "at": self.at}

    def describe(self) -> str:
        """Return where it is, how large it is and how long it took, in words for the user."""
        written, dumped = self.checkpoint.written / (1 << 20), self.checkpoint.dumped / (1 << 20)
        smaller = f", compressed to {written:.1f} MiB" if written != dumped else ""
        parent = f" more than {self.checkpoint.parent}" if self.checkpoint.parent else ""
        layer = self.checkpoint.sizes.get(LAYER, 0)
        of_layer = f", {layer / (1 << 20):.1f} MiB of them changes to the root file system,"
        changes = of_layer if layer >= NOTABLE_LAYER else ""
        times = f"{self.seconds:.2f} s, frozen {self.frozen:.2f} s"
        return f"{self.checkpoint.path} ({dumped:.1f} MiB{parent}{changes} in {times}{smaller})"


class Dump:
    """A dump of `container`, whose init is `pid`. `options` are of the worker's closed set (its check()).

    If it `closes` connections, those of TCP in the node's network don't keep a user's container from being dumped. What
    is `known` of its memory where it is sent is left out.

    Raise ShimError if the container can't be dumped as it is, OSError if it has ended.
    """

    def __init__(
        self,
        container: Container,
        pid: int,
        options: dict[str, Any],
        closes: bool = False,
        known: Known | None = None,
    ) -> None:
        self.container = container
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.options = options
        self.wants_closed = closes
        self.known = known
        self.hold: Hold  # on standard input, during the dump
        self.left_out = 0  # files that the layer of its root file system lacks
        self.record = container.load()
        self.bundle = Bundle(self.record["bundle"], self.record["config"])
        self.changes = self._look()  # lines about what a restore will change, of which the user was not told yet
        if options.get("track_mem"):
            files.remove_if_there(container.path(CHAIN))  # it takes the kernel's marks away

    def _survey(self) -> Survey:
        options = self.options
        return Survey(
            self.pid,
            self.bundle,
            self.record.get("own_group", False),
            self.record.get("preserved", []),
            shell_job=options.get("shell_job", False),
            runs_on=options.get("leave_running", False),
            keeps_connections=options.get("tcp_established", False),
            closes_connections=self.wants_closed,
        )

    def _look(self) -> list[str]:
        survey = self._survey()
        changes = kept.check(survey)
        self.closes = survey.closes
        self.has_tcp = any(found.kind in inet.STREAMS for _, found in survey.sockets)
        self.holds_tcp = survey.keeps_inner and self.has_tcp
        self.has_connections = any(found.is_connection for _, found in survey.sockets)
        has_any = self.has_connections or any(found.has_ended for _, found in survey.sockets)
        if survey.forgets_ended and (self.closes or has_any):
            self.options = self.options | {"tcp_close": True}  # CRIU does not look into them then
            criu_images.file_type()  # it takes long, and is needed while everything is frozen
        if self.bundle.is_bare:
            self.options = self.options | {"bare": True}
        if survey.inner:
            self.options = self.options | {"inner": list(survey.inner)}
        path = self.container.path(CHANGES)
        told = files.read_json(path) if changes and os.path.exists(path) else []
        new = [line for line in changes if line not in told]
        if new:
            files.write_json(path, [*told, *new])
        return new

    def take(
        self,
        store: Store | Directory | Peer | Local,
        reason: str,
        connection: socket.socket,
        link: Link | None = None,
        serves: Callable[[], None] | None = None,
    ) -> Taken:
        """Have the worker at the end of `connection` checkpoint the container into `store`; return the checkpoint.

        `link` says whether it may be an increment. `serves` is called once the memory that is handed out lazily can be
        asked for. Raise ShimError or OSError if that fails: the container runs on.
        """
        begun = time.monotonic()
        needs = node_fit.needs(self.bundle, process.tree(self.pid))
        # If this process is killed, the job's epilog finds by it what is to be removed.
        stage_link = self.container.path(f"{STAGE_LINK}{os.getpid()}")
        try:
            with store.stage() as stage:
                os.symlink(stage.path, stage_link)
                # These are known already: once all is frozen, every flush counts.
                known = self.bundle.placed, _podman_record(self.container), _streams(self.record)
                stage.describe(*known, batch_script.read(self.pid, self.bundle))
                if self.options["leave_running"]:
                    open_files.sync(self.pid, frozen=False)
                about = {"needs": needs, "reason": reason, "read": open_files.read(self.pid)}
                taken = Taken(*self._checkpoint(stage, connection, about, link, serves), begun)
        finally:
            files.remove_if_there(stage_link)
        if link:
            link.done(taken.checkpoint)
        return taken

    def pre_dump(self, directory: Directory, connection: socket.socket) -> None:
        """Write the container's memory to `directory` while it runs on.

        A checkpoint that is built upon this one only has the changes since. Raise ShimError or OSError if that fails.
        """
        stage = directory.stage()
        with stage:
            with _opened(stage.images, directory.work) as directories, connection:
                client.dump(connection, self.options, [self.pidfd, *directories], lambda _: None)
            stage.keep()

    def _checkpoint(
        self,
        stage: Stage,
        connection: socket.socket,
        about: dict[str, Any],
        link: Link | None,
        serves: Callable[[], None] | None,
    ) -> tuple[Checkpoint, float]:
        """Take the checkpoint; return it, and for how many seconds the container was frozen."""
        committed: list[Checkpoint] = []
        connections = Connections()

        def commit(report: dict[str, Any]) -> None:
            self._settle(stage, report, link)
            if layer:
                self.left_out = layer.finish()
            if self.bundle.own_places:
                own_files.pack(self.pid, self.bundle.own_places, os.path.join(stage.path, OWN))
            if packing:
                stage.about |= packing.about()
            connections.look(self._survey() if self.has_tcp else None, stage.images)
            committed.append(self._commit(stage, report | about, connections.note()))
            if not options["leave_running"]:
                connections.hold()

        options = self.options | (link.begin(stage) if link else {})
        if packing := self._packing(stage, options):
            options = {**options, "pages": True}
        layer = rootfs.take(self.container, self.bundle, self.pid, stage, options.get("inner", ()))
        try:
            with (
                self._held_up(),
                _opened(stage.images, stage.work) as directories,
                connection,
                Hold(_of_supervisor(self.record, "input")) as self.hold,
            ):
                takes = packing.takes if packing else None
                frozen = client.dump(connection, options, [self.pidfd, *directories], commit, serves, takes)
        except ShimError:
            if packing:
                packing.require()
            if not committed or options["leave_running"] or options.get("lazy_pages"):
                raise  # it runs on; nobody else has the memory that it did not hand out
            # It is committed, so it must not run on: anything that it did now would be done twice.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            frozen = committed[0].manifest["frozen_seconds"]  # at least
        finally:
            if packing:
                packing.stop()
            if layer:
                layer.stop()
            if not committed:
                connections.release()
        connections.reset()
        return committed[0], frozen

    def _packing(self, stage: Stage, options: dict[str, Any]) -> Sending | None:
        """Return what takes the memory from CRIU; None if CRIU writes it."""
        if stage.target:
            return Sending(stage.target, stage.images, self.known)
        if stage.codec and not options.get("track_mem") and not mounts.own(stage.images):
            return Packing(stage.codec, self.pid, stage.images)
        return None

    @contextmanager
    def _held_up(self) -> Iterator[None]:
        """Hold up the TCP between the container's processes: what CRIU sees of the two ends must fit together.

        If there is no connection now, there may be one in a moment; a kernel that can't do it does no harm then.
        """
        try:
            held = netlock.hold(self.pid) if self.holds_tcp else nullcontext()
        except OSError as error:
            if self.has_connections:
                said = f"TCP connections can't be held up while they are dumped: {error.strerror}"
                raise ShimError(said, netlock.HINT) from None
            held = nullcontext()
        with held:
            yield

    def _settle(self, stage: Stage, report: dict[str, Any], link: Link | None) -> None:
        """Make the images fit for a restore. Raise ShimError if they can't be, OSError if the disk is full."""
        try:
            if "for" in self.options:
                criu_images.leave_groups(stage.images)
            if os.geteuid() or "user" in self.bundle.namespaces:
                seccomp.require_restorable(stage.images)
        except ShimError:
            stage.require_room()
            raise
        if link:
            link.check(self.pid, stage.images, report.get("seal", ""))

    def _commit(self, stage: Stage, report: dict[str, Any], closed: Closed | None) -> Checkpoint:
        """Write the manifest, and commit. The container is frozen meanwhile."""
        manifest = self._manifest(report, stage.sizes())
        if closed:
            manifest["closed"] = closed
        criu_images.own_deleted(stage.images, *ids.ours(manifest["uid_map"], manifest["gid_map"]))
        if self.options.get("tcp_close") and not self.closes:
            _require_ended(stage.images, closed["inner"] if closed else [])
        if self.options["leave_running"]:
            _require_names(stage.images)
            open_files.sync(self.pid, frozen=True)  # data written since the dump began; most was written before
        written = open_files.look(self.pid)
        return stage.commit({**manifest, "written": written, "read": open_files.only_read(report["read"], written)})

    def _manifest(self, report: dict[str, Any], sizes: dict[str, int]) -> Draft:
        source, pending = self.hold.taken()
        manifest: Draft = {
            "version": 1,
            "container": self.container.name,
            "created": files.timestamp(),
            "node": os.uname().nodename,
            "kernel": os.uname().release,
            "criu": report["criu"],
            "needs": report["needs"],
            "reason": report["reason"],
            "bytes": sum(sizes.values()),
            "files": sizes,
            "streams": _streams(self.record),
            "input": base64.b64encode(_unread(self.record) + pending).decode(),
            "clock": report["clock"],
            "external": report["external"],
            "network": report["network"],
            "uid_map": ids.read(self.pid, "uid"),
            "gid_map": ids.read(self.pid, "gid"),
            "own_cgroup": os.geteuid() == 0 and cgroups.has_own(self.pid),
            "io_priority": linux.io_priority(self.pid),
            "personality": process.personality(self.pid),
            "threads": threads.note(self.pid, living(self.record, "supervisor") or 0),
            "frozen_seconds": report["frozen_ns"] / 1e9,
            "left_running": self.options["leave_running"],
        }
        if self.bundle.is_bare:
            manifest["own_places"] = self.bundle.own_places
        if "begun" in self.record:
            manifest["begun"] = self.record["begun"]
        if source:
            manifest["source"] = source
        if "restarts" in self.record:
            manifest["restarts"] = self.record["restarts"]
        return manifest


@contextmanager
def _opened(*paths: str | None) -> Iterator[list[int]]:
    """Open the directory for the images and, if CRIU is to work in another one, that one."""
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths if path]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _require_ended(images: str, inner: list[list[End]]) -> None:
    """Raise ShimError if there is a TCP connection that has not ended, and is not one of the `inner` ones, which are
    made anew: one was opened since they were looked for, or the other end has no room for what was sent."""
    anew = {end["inode"] for ends in inner for end in ends}
    found = [sock for sock in criu_images.inet_sockets(images) if criu_images.is_connection(sock)]
    if any(sock.state != inet.CLOSE and sock.ino not in anew for sock in found):
        said = "a TCP connection was opened meanwhile, or its other end does not read what was sent"
        raise ShimError(said, "the next checkpoint says which, if it is still open")


def _require_names(images: str) -> None:
    """Raise ShimError if the checkpoint of a container that runs on could not be restored because of a deleted file.

    If the file has another name, CRIU gives it a third one, and removes that when the dump is over.
    """
    if criu_images.names_deleted_files(images):
        raise ShimError(
            "a file is open under a name that was removed, and has another one: such a file is kept only if the "
            "container ends by its checkpoint",
            "at a preemption, it is checkpointed all the same",
        )


def _of_supervisor(record: Record, which: Literal["input", "outside"]) -> str | None:
    """Return the path of its note on standard input, or of the container's standard input itself; None without one."""
    ours = record.get("stdio", {}).get(which)
    descriptor = ours[0] if isinstance(ours, list) else ours
    return None if descriptor is None else f"/proc/{record['supervisor'][0]}/fd/{descriptor}"


def _streams(record: Record) -> list[str]:
    """Return where the container's standard streams lead; empty strings if it has a terminal of its own."""
    streams: list[str] = record.get("stdio", {}).get("streams", ["", "", ""])
    return streams


def _podman_record(container: Container) -> dict[str, str]:
    """Return config.dump: what is known now of podman's ContainerConfig; an archive has more (ckpt/podman.py)."""
    return {
        "id": container.name,
        "name": container.name,
        "createdTime": files.timestamp(),
        "checkpointedTime": files.timestamp(),
    }


def _unread(record: Record) -> bytes:
    """Return what waits in the container's standard input; nothing if it is none of the supervisor's."""
    path = _of_supervisor(record, "outside")
    try:
        return stdio.unread(path) if path else b""
    except FileNotFoundError:  # it was killed
        return b""
