"""Checkpoints that have only what has changed since an older one, their parent.

    <seq>/checkpoint/parent/          of the parent's images those that a restore needs, as hard links
                    /parent/parent/   of its own parent's

CRIU looks there for pages that its own images leave out. So a checkpoint stays one directory that needs no other: its
parent can be removed at any time, and no byte is on disk twice.
"""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints import integrity
from oci_criu_shim.checkpoints.committed import COMPRESSED, IMAGES, PARENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.stage import Stage

# After so many, a whole one: a restore reads through all of them, and one damaged file damages all that share it.
MOST = 8
# Memory, where it belongs, and when it was dumped, by which CRIU knows a process from an older one of the same number.
NEEDED = ("pagemap-", "pages-", "inventory")
UNNEEDED = "pagemap-shmem-"  # shared memory is always whole


def may_follow(parent: Checkpoint) -> bool:
    """Whether an increment of `parent` is worth it: not where those since the last whole one outweigh that."""
    sizes = [0] * (1 + max(map(_depth, parent.sizes)))
    for name, size in parent.sizes.items():
        if name.startswith(f"{IMAGES}/"):
            sizes[_depth(name)] += size
    *increments, whole = sizes
    return len(increments) < MOST and sum(increments) < whole


def _depth(name: str) -> int:
    return name.split("/").count(PARENT)


def link(parent: Checkpoint, stage: Stage) -> None:
    """Make what is dumped to `stage` an increment of `parent`. OSError where that can't be: its file system has no
    hard links, or somebody has removed the parent; the stage is as it was."""
    names = {_inherited(name): name for name in parent.manifest["files"] if _is_needed(name)}
    try:
        for name, source in names.items():
            target = os.path.join(stage.path, name)
            files.make_directories(os.path.dirname(target))
            os.link(os.path.join(parent.path, source), target, follow_symlinks=False)
        # They are known already, and would take long.
        known = integrity.checksums(parent)
        integrity.write_checksums(
            stage.path, {name: known[source] for name, source in names.items() if source in known}
        )
    except OSError:
        files.remove_tree(os.path.join(stage.images, PARENT))
        raise
    packed = parent.manifest.get("compressed", {})
    stage.about = {"increment_of": parent.seq}
    if found := {name: packed[source] for name, source in names.items() if source in packed}:
        stage.about |= {"version": COMPRESSED, "compressed": found}


def _inherited(name: str) -> str:
    return f"{IMAGES}/{PARENT}{name.removeprefix(IMAGES)}"


def _is_needed(name: str) -> bool:
    base = os.path.basename(name)
    return base.startswith(NEEDED) and not base.startswith(UNNEEDED)
