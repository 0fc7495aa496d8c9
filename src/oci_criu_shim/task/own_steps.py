"""Tell a batch script without a container that starts steps: these are checkpointed by themselves.

The steps of a requeued job have their numbers anew. So such a script begins at its top (steps.py), or at a checkpoint
that it had before its first step.
"""

from __future__ import annotations

import os

from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.slurm.tasks import Task

SAID = "its script starts steps, which are checkpointed by themselves"


def are_there(container: Container, task: Task, store: Store) -> bool:
    """Return whether a task is a batch script without a container that has started steps, or starts one now."""
    if not task.is_batch or not _is_bare(container):
        return False
    init = container.alive("init")
    return were_there(store) or any(_name(pid) == "srun" for pid in (process.tree(init) if init else ()))


def were_there(store: Store) -> bool:
    """Return whether steps of the job have left anything where its batch script leaves checkpoints."""
    return any(name[0].isdecimal() for name in os.listdir(os.path.dirname(store.path)))


def _is_bare(container: Container) -> bool:
    record = container.load()
    return Bundle(record["bundle"], record["config"]).is_bare


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""
