"""Control groups of an instance: `oci-criu-shim-<instance>/<node>` in each hierarchy that a node gets to see.

Slurm and crun refuse a hybrid set-up, so a node sees either v1 controllers only, or the v2 tree only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError
from .waiting import patient

WANTED = frozenset(("freezer", "cpuset", "cpu", "cpuacct", "memory", "devices", "blkio", "pids"))

# $1 is the number of directories that follow it, then comes the command.
ENTER = (
    'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; n=$((n-1)); done; exec "$@"'
)


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup tree of this machine."""

    mount: Path
    controllers: tuple[str, ...]
    """Empty for v2."""

    @property
    def is_v2(self) -> bool:
        return not self.controllers


def hierarchies(mounts: str | None = None) -> tuple[Hierarchy, ...]:
    """The trees that nodes use, from the text of /proc/self/mounts: all v1 ones, else v2. Raise ClusterError."""
    lines = (Path("/proc/self/mounts").read_text() if mounts is None else mounts).splitlines()
    entries = [line.split() for line in lines]
    v1 = {_controllers(entry[3]): Path(entry[1]) for entry in reversed(entries) if entry[2] == "cgroup"}
    v1.pop((), None)
    if "freezer" in {name for controllers in v1 for name in controllers}:
        return tuple(Hierarchy(mount, controllers) for controllers, mount in v1.items())
    v2 = [Path(entry[1]) for entry in entries if entry[2] == "cgroup2"]
    if not v2:
        raise ClusterError("no cgroup hierarchy is mounted", "mount cgroup2 at /sys/fs/cgroup")
    return (Hierarchy(v2[0], ()),)


def create(instance: str, node: str) -> tuple[Path, ...]:
    """Make the node's group in every hierarchy, the roots that the node sees; return their directories."""
    return tuple(_create(tree, instance, node) for tree in hierarchies())


def settle(instance: str, node: str, init: int, outside: int) -> None:
    """Leave the root that a node sees, once it is the root, to the groups below it: in v2 a group hands controllers
    down only while it holds no process itself. Its init's parent must not be seen: slurmd 24.11 refuses a group that
    holds a process of another pid namespace."""
    for tree, leaf in zip(hierarchies(), groups(instance, node), strict=True):
        if tree.is_v2:
            top, group = tree.mount / _top(instance), leaf.parent
            for pid, place in ((init, group / "init"), (outside, top / "outside")):
                place.mkdir(exist_ok=True)
                (place / "cgroup.procs").write_text(str(pid))
            leaf.mkdir()
            _hand_down(group)


def groups(instance: str, node: str) -> tuple[Path, ...]:
    """Return the groups that a process from outside enters, one a hierarchy: the node's, or in v2 a leaf of it."""
    return tuple(tree.mount / _top(instance) / node / ("exec" if tree.is_v2 else "") for tree in hierarchies())


def enter(groups: tuple[Path, ...]) -> tuple[str, ...]:
    """Prefix of an argv: the program starts in these groups."""
    return ("/bin/sh", "-c", ENTER, "enter-cgroups", str(len(groups)), *map(str, groups))


def remove(instance: str, timeout: float = 10.0) -> None:
    """Kill what is in the instance's groups and remove them. Raise ClusterError after timeout seconds."""
    _remove([tree.mount / _top(instance) for tree in hierarchies()], timeout)


def remove_node(instance: str, node: str, timeout: float = 10.0) -> None:
    """Kill what is in a node's groups and remove them. Raise ClusterError after timeout seconds."""
    _remove([tree.mount / _top(instance) / node for tree in hierarchies()], timeout)


def _remove(tops: list[Path], timeout: float) -> None:
    deadline = time.monotonic() + patient(timeout)
    while busy := [top for top in tops if not _try_remove(top)]:
        if time.monotonic() > deadline:
            raise ClusterError(f"{busy[0]} is still in use", "see its cgroup.procs for who uses it")
        time.sleep(0.02)


def _controllers(options: str) -> tuple[str, ...]:
    return tuple(option for option in options.split(",") if option in WANTED)


def _top(instance: str) -> str:
    return f"oci-criu-shim-{instance}"


def _create(tree: Hierarchy, instance: str, node: str) -> Path:
    top = tree.mount / _top(instance)
    group = top / node
    for directory in (top, group):
        directory.mkdir(exist_ok=True)
        if "cpuset" in tree.controllers:
            _inherit_cpuset(directory)
        if tree.is_v2:
            _hand_down(directory.parent)
    return group


def _inherit_cpuset(group: Path) -> None:
    # A new v1 cpuset is empty, and no process can enter an empty one.
    for name in ("cpuset.cpus", "cpuset.mems"):
        (group / name).write_text((group.parent / name).read_text())


def _hand_down(group: Path) -> None:
    """Let the groups below have all controllers of a v2 group."""
    controllers = (group / "cgroup.controllers").read_text().split()
    (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))


def _try_remove(top: Path) -> bool:
    """One try: kill, then remove from the leaves up. Return whether nothing is left."""
    for directory in _deepest_first(top):
        try:
            for pid in (directory / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            directory.rmdir()
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:  # EBUSY: the killed are not gone yet
            return False
    return not top.exists()


def _deepest_first(top: Path) -> Iterator[Path]:
    for directory, _, _ in os.walk(top, topdown=False):
        yield Path(directory)
