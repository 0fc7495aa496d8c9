"""What a restore of a bare task needs besides: its mounts, and files that CRIU finds by their paths alone."""

from __future__ import annotations

import os

from oci_criu_shim.checkpoints import own_files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import own_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oci_criu_shim.checkpoints.manifest import Manifest
    from oci_criu_shim.host.criu import Message


def check(is_bare: bool, manifest: Manifest) -> None:
    """Raise ShimError if a task without a container was checkpointed with one, or the other way round."""
    if is_bare != ("own_places" in manifest):
        made, hint = ("with", "give it the same one") if is_bare else ("without", "leave out --container")
        raise ShimError(f"the checkpoint is of a task {made} a container, and this task is not", hint)


def mount(places: Iterable[str], packed: str) -> None:
    """Mount what the task has for itself, with the files of the tar file `packed`, if there are any.

    That file may be in a place that is covered then.
    """
    with open(packed or os.devnull, "rb") as archive:
        own_mounts.make(places)
        if packed:
            own_files.unpack(archive)


def find_by_path(files: list[Message], script: tuple[str, str]) -> bool:
    """Have CRIU find open files by their paths, as the task's mounts are none that it makes; return whether there are
    any. `script` are the paths of its batch script, before and now."""
    before, now = script
    found = [getattr(file, kind) for file in files for kind in ("reg", "usk") if file.HasField(kind)]
    for entry in found:
        entry.mnt_id = -1
    for entry in (file.reg for file in files if file.HasField("reg") and file.reg.name == before != ""):
        entry.name = now
    return bool(found)
