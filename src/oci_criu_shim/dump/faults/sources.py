"""Binds of what was removed or replaced on the node since: a restore finds only what has the same name now."""

from __future__ import annotations

import os

from oci_criu_shim.container import batch_script
from oci_criu_shim.dump.proc import DELETED
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.proc import Process
    from oci_criu_shim.dump.survey import Survey


def removed(survey: Survey) -> Iterator[ShimError]:
    """Yield binds whose source is gone, or is another one now while a process still has the old one.

    If none has, the mount comes back with the new one, as config.json says: so it would after a fresh start.
    """
    for key, source in survey.binds.items():
        if source is None or key == batch_script.point(survey.bundle):
            continue  # a batch script is kept with the checkpoint
        if not os.path.exists(source):
            yield ShimError(f"{source}, which is mounted at {key}, was removed on the node", "put it back")
        elif survey.is_other(key, source):
            if os.path.isdir(source) != os.path.isdir(survey.path(key)):
                kind = "a directory now" if os.path.isdir(source) else "no directory any more"
                yield ShimError(f"{source}, which is mounted at {key}, is {kind}", "put back what it was")
            yield from _used(survey, key, source)


def _used(survey: Survey, point: str, source: str) -> Iterator[ShimError]:
    for process, name in _users(survey, point):
        yield ShimError(
            f"{process} still uses {name}, and {source}, which is mounted at {point}, was replaced on the node: a"
            " restore finds the new one only",
            "have the program close it, or start the container anew",
        )


def _users(survey: Survey, point: str) -> Iterator[tuple[Process, str]]:
    """Yield (process, name) of what processes have open, mapped, or as a directory of theirs, at or below a mount."""
    for process in survey.processes:
        for name in _names(process):
            name = name.removesuffix(DELETED)
            if name == point or name.startswith(point + "/"):
                yield process, name


def _names(process: Process) -> Iterator[str]:
    yield from (descriptor.link for descriptor in process.descriptors)
    yield from process.places.values()
    yield from (path for _, path in process.mapped)
