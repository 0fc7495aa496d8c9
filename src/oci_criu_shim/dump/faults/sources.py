"""Binds of what was removed or replaced on the node since: a restore finds only what has the same name now."""

from __future__ import annotations

import os

from oci_criu_shim.container import batch_script
from oci_criu_shim.dump.survey import GONE, read
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.survey import Process, Survey


def removed(survey: Survey) -> Iterator[ShimError]:
    """Yield binds whose source is gone, or is another one now while a process still has the old one.

    If none has, the mount comes back with the new one, as config.json says: so it would after a fresh start.
    """
    bundle = survey.bundle
    for entry in survey.external:
        key = entry["key"]
        source = mounts.bind_source(key, bundle.mounts, bundle.path, bundle.rootfs)
        if entry["kind"] != "bind" or source is None or key == batch_script.point(bundle):
            continue  # a batch script is kept with the checkpoint
        if not os.path.exists(source):
            yield ShimError(f"{source}, which is mounted at {key}, was removed on the node", "put it back")
        elif not _is_same(source, survey.path(key)):
            if os.path.isdir(source) != os.path.isdir(survey.path(key)):
                kind = "a directory now" if os.path.isdir(source) else "no directory any more"
                yield ShimError(f"{source}, which is mounted at {key}, is {kind}", "put back what it was")
            yield from _used(survey, key, source)


def _is_same(source: str, mounted: str) -> bool:
    try:
        return os.path.samefile(source, mounted)
    except OSError:
        return False  # ESTALE, of what another node has removed


def _used(survey: Survey, point: str, source: str) -> Iterator[ShimError]:
    for process, name in _users(survey, point):
        yield ShimError(
            f"process {process.pid} still uses {name}, and {source}, which is mounted at {point}, was replaced on the"
            " node: a restore finds the new one only",
            "have the program close it, or start the container anew",
        )


def _users(survey: Survey, point: str) -> Iterator[tuple[Process, str]]:
    """Yield (process, name) of what processes have open, mapped, or as a directory of theirs, at or below a mount."""
    for process in survey.processes:
        for name in _names(process):
            name = name.removesuffix(" (deleted)")
            if name == point or name.startswith(point + "/"):
                yield process, name


def _names(process: Process) -> Iterator[str]:
    for descriptor in process.descriptors:
        yield descriptor.link
    for link in ("cwd", "root", "exe"):
        try:
            yield os.readlink(f"{process.path}/{link}")
        except OSError as error:
            if error.errno not in GONE:
                raise
    for line in read(f"{process.path}/maps").splitlines():
        yield line.split(None, 5)[-1]
