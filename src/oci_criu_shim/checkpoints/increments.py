"""Make a checkpoint that has only what changed since an older one, its parent.

    <seq>/checkpoint/parent/          hard links to those images of the parent that a restore needs
                    /parent/parent/   to those of the parent's own parent

CRIU looks there for pages that its own images leave out. So each checkpoint is one directory that needs no other: its
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

# Increments before the next whole checkpoint: a restore reads through all of them, and one damaged file damages all
# checkpoints that share it.
MOST = 8
# Images of memory, of its addresses, and of the time of the dump, by which CRIU can tell a process from an older one
# that had the same pid.
NEEDED = ("pagemap-", "pages-", "inventory")
UNNEEDED = "pagemap-shmem-"  # shared memory is always whole


def may_follow(parent: Checkpoint) -> bool:
    """Return whether an increment of `parent` is worth it: the increments since the last whole checkpoint must weigh
    less than that one."""
    sizes = [0] * (1 + max(map(_depth, parent.sizes)))
    for name, size in parent.sizes.items():
        if name.startswith(f"{IMAGES}/"):
            sizes[_depth(name)] += size
    *increments, whole = sizes
    return len(increments) < MOST and sum(increments) < whole


def _depth(name: str) -> int:
    return name.split("/").count(PARENT)


def link(parent: Checkpoint, stage: Stage) -> None:
    """Make the dump to `stage` an increment of `parent`. If OSError is raised, it can't be one, and the stage is as it
    was: the file system has no hard links, or the parent was removed."""
    names = {_inherited(name): name for name in parent.manifest["files"] if _is_needed(name)}
    try:
        for name, source in names.items():
            target = os.path.join(stage.path, name)
            files.make_directories(os.path.dirname(target))
            os.link(os.path.join(parent.path, source), target, follow_symlinks=False)
        # These checksums are known already, and would take long.
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
