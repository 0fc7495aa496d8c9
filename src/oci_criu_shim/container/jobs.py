"""Find the containers of a job on this node."""

from __future__ import annotations

import re

from oci_criu_shim.container import registry
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import Container, all_of, living
from oci_criu_shim.slurm import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Found = tuple[Container, str, int]
    """A container, Slurm's name of its step, and its task."""

ID = re.compile(r".*\.(?P<job>\d+)\.(?P<step>\d+)\.(?P<task>\d+)")  # as the files in etc/oci.conf.d have it


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
    """Return a job's containers on this node, whether checkpoints of them were asked for or not; in order of the steps.

    Without that, a container has no record, and its id tells the step and task.
    """
    found = [(container, task) for name in registry.names(root) if (task := _task(container := Container(root, name)))]
    return [(one, task.step_name, task.rank) for one, task in sorted(found, key=lambda row: (row[1].step, row[1].rank))]


def _task(container: Container) -> tasks.Task | None:
    """Return the task of a container; None if that is not known, or the container has ended."""
    record = container.load()
    if record:
        alive = living(record, "supervisor") or living(record, "init")
        return tasks.of(Bundle(record["bundle"], record["config"]).environment()) if alive else None
    named = ID.fullmatch(container.name)
    if named is None:
        return None
    return tasks.Task({"SLURM_JOB_ID": named["job"], "SLURM_STEP_ID": named["step"], "SLURM_PROCID": named["task"]})
