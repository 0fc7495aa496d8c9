"""Find the containers of a job on this node."""

from __future__ import annotations

from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import all_of, living
from oci_criu_shim.slurm import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.container.record import Container


def asked(root: str) -> Iterator[Container]:
    """Yield a job's running containers for which checkpoints were asked; any other begins again with the job."""
    for container in all_of(root):
        record = container.load()
        if living(record, "supervisor") is None:
            continue
        task = tasks.of(Bundle(record["bundle"], record["config"]).environment())
        if task is not None and task.asked:
            yield container
