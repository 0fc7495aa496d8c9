"""Find the containers of a job on this node."""

from __future__ import annotations

from oci_criu_shim.container import registry
from oci_criu_shim.container.bundle import Bundle, load
from oci_criu_shim.container.record import Container, all_of, living
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Found = tuple[Container, str, int]
    """A container, Slurm's name of its step, and its task."""


def asked(root: str) -> Iterator[Container]:
    """Yield a job's running containers for which checkpoints were asked; any other begins again with the job."""
    for container in all_of(root):
        record = container.load()
        if living(record, "supervisor") is None:
            continue
        task = tasks.of(Bundle(record["bundle"], record["config"]).environment())
        if task is not None and task.asked:
            yield container


def running(root: str) -> list[Found]:
    """Return a job's running containers on this node, checkpoints or not, in order of the steps; no others of its."""
    found = [(container, task) for name in registry.names(root) if (task := _task(container := Container(root, name)))]
    return [(one, task.step_name, task.rank) for one, task in sorted(found, key=lambda row: (row[1].step, row[1].rank))]


def _task(container: Container) -> tasks.Task | None:
    """Return the task of a container; None if it does not run, or is no task's.

    Only its backend knows of one that nobody is to checkpoint.
    """
    try:
        record = container.load()
        if record:
            alive = living(record, "supervisor") or living(record, "init")
            return tasks.of(Bundle(record["bundle"], record["config"]).environment()) if alive else None
        state = registry.backend_of(container, {}, Log()).state(container)
        return tasks.of(load(state["bundle"]).environment()) if state["status"] == "running" else None
    except ShimError:
        return None  # it ended meanwhile
