"""Compress the newest checkpoint of a container that runs on, in a child of its supervisor."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.container.record import STAGE_LINK
from oci_criu_shim.errors import line_of
from oci_criu_shim.host import process
from oci_criu_shim.host.quick import signal
from oci_criu_shim.values import AUTO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.compression import Compression
    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.log import Log

NICE = 10  # the container's own work comes first


def compression(setting: str, job: int, log: Log) -> Compression | None:
    """Return how checkpoints of a job are compressed by the setting `compress`; None if they are not."""
    if setting == "off":
        return None
    from oci_criu_shim.checkpoints import codec
    from oci_criu_shim.checkpoints.compression import Compression
    from oci_criu_shim.slurm import controller

    chosen, always = codec.parse(setting), setting != AUTO
    if chosen is None or not (always or chosen.is_there()):
        return None
    return Compression(chosen, lambda: controller.job(job).seconds_left(), log.debug, always)


class Compressor:
    """Compresses the newest checkpoint of `store`, in a child that may be killed at any moment: nobody waits for it.

    It is stopped if another checkpoint is to be taken, or the container has ended. `setting` is the setting `compress`.
    """

    def __init__(self, container: Container, store: Store, log: Log, setting: str) -> None:
        self.container = container
        self.wanted = setting not in ("off", AUTO)
        self.store = store
        self.log = log
        self.child: list[int] | None = None

    def start(self) -> None:
        """Begin; do nothing if the site does not want what is on the disk compressed."""
        if not self.wanted:
            return
        try:
            self.child = process.identity(process.fork(self._run))
        except OSError as error:
            self.log.error(f"the newest checkpoint in {self.store.path} stays as large as it is: {line_of(error)}")

    def stop(self) -> bool:
        """End the child, and remove its unfinished work; return whether there was any."""
        if self.child is None:
            return False
        pid, started = self.child
        self.child = None
        works = process.start_time(pid) == started
        if works:
            os.kill(pid, signal.SIGKILL)
            process.wait(pid)
        try:
            files.remove_if_there(self._link(pid))
            self.store.sweep()
        except OSError as error:
            self.log.error(f"unfinished work of compressing a checkpoint stays for now: {line_of(error)}")
        return works

    def _link(self, pid: int) -> str:
        """Return the path of a link by which the job's epilog finds what nobody else could remove."""
        return self.container.path(f"{STAGE_LINK}{pid}")

    def _run(self) -> int:
        from oci_criu_shim.checkpoints.committed import Checkpoint

        assert self.store.compression
        os.nice(NICE)
        stage, link = self.store.stage_path(), self._link(os.getpid())
        os.symlink(stage, link)
        try:
            newest = next(iter(self.store.newest_first()), None)
            if isinstance(newest, Checkpoint):
                self.store.compression.apply(newest, stage)
        finally:
            files.remove_tree(stage)
            files.remove_if_there(link)
        return 0
