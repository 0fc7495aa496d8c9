"""Go on from a checkpoint that was received into this node's memory, and keep it in the store after that."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints import integrity, scratch
from oci_criu_shim.container.record import STAGE_LINK
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host import process
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.transfer import holding, received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.log import Log

NICE = 10  # the program's own work comes first


class Arrival:
    """The checkpoint in memory that `container` is to go on from; the job's epilog removes what nobody else can."""

    def __init__(self, container: Container, checkpoint: Checkpoint, store: Store, log: Log) -> None:
        self.checkpoint = checkpoint
        self.what = container.name
        self.store = store
        self.log = log
        # Not in the container's directory, which may go before a child has copied it.
        self.link = RunDirectory(container.root).file(f"{STAGE_LINK}{os.getpid()}")
        os.symlink(os.path.dirname(checkpoint.path), self.link)

    @property
    def path(self) -> str:
        """Where it is now."""
        return self.checkpoint.path

    def keep_aside(self) -> None:
        """Have a child do what keep() does, while the container runs."""
        process.fork(self._keep_aside)

    def _keep_aside(self) -> int:
        os.nice(NICE)
        self.keep()
        return 0

    def keep(self) -> None:
        """Copy it to the store, and free the memory. If that fails, the newest in the store is an older one."""
        try:
            kept = holding.keep(self.checkpoint, self.store)
            integrity.add_checksums(kept)
            self.log.debug(f"{self.path} is kept as {kept.path}")
        except (ShimError, OSError) as error:
            self.log.error(f"the checkpoint by which {self.what} has migrated is not kept: {line_of(error)}")
        received.remove(self.path)
        files.remove_if_there(self.link)


def of(container: Container, task: str, store: Store, log: Log) -> Arrival | None:
    """Return what was received for `task`, `<job>/<step>.<task>`, if the store has nothing newer; else None."""
    found = received.take_over(task)
    if found is None:
        return None
    if found.seq <= max(store.numbers(), default=0):
        received.remove(found.path)
        return None
    scratch.sweep(received.MEMORY)
    return Arrival(container, found, store, log)
