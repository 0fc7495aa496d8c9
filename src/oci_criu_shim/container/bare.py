"""Describe a bare task, a task without a container, as a bundle: everything but its start then takes it for one."""

from __future__ import annotations

import os

from oci_criu_shim.container.bundle import BARE, SCRIPT
from oci_criu_shim.errors import Misfit
from oci_criu_shim.host import mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.files import Document
    from oci_criu_shim.host.mounts import Mount

PLACES = ("/dev/shm", "/tmp", "/var/tmp")  # directories that everybody may write to, on a node
# Variables that every job has from elsewhere; and words of a script that uses /tmp without naming it.
CARRIED = {"PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "_"}
IN_TMP = ("TMPDIR", "mktemp")
INITS = ("tini", "catatonit")  # they reap, and pass signals on
NAMESPACES = ("user", "pid", "mount", "ipc")


def document(
    words: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    places: Iterable[str],
    terminal: bool = False,
    is_script: bool = False,
) -> Document:
    """Return config.json for a task: the program `words`, which has the directories `places` for itself. It is a batch
    script if `is_script`."""
    uid, gid = os.geteuid(), os.getegid()
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "/"},
        "process": {
            "terminal": terminal,
            "user": {"uid": uid, "gid": gid},
            "cwd": cwd,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "args": list(words),
        },
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "uidMappings": [{"containerID": uid, "hostID": uid, "size": 1}],
            "gidMappings": [{"containerID": gid, "hostID": gid, "size": 1}],
        },
        "annotations": {BARE: ":".join(places), **({SCRIPT: words[0]} if is_script else {})},
    }


def places(
    words: Sequence[str], environment: Mapping[str, str], cwd: str, job: int, script: str = ""
) -> tuple[list[str], list[str]]:
    """Return the directories that a task has for itself, and lines that say why others stay the node's.

    It is to find there what it is given by its command line, its directory and its environment, and what it and the
    batch `script` that it is a step of pass to each other. Slurm may have given the job such directories of its own.
    """
    named = {"its working directory": [cwd], "what its command line names": words}
    others = {name: value for name, value in environment.items() if name not in CARRIED}
    named |= {f"what {name} names": [value.removeprefix("FILE:")] for name, value in others.items()}
    mounted = {mount.point: mount for mount in mounts.read()}
    found, said = [], []
    for place in PLACES:
        mount = mounted.get(place)
        if not os.path.isdir(place) or os.path.realpath(place) != place or (mount and is_slurms(mount, job)):
            continue
        why = next((what for what, paths in named.items() if any(_is_in(path, place) for path in paths)), "")
        if not why and (place in script or (place == "/tmp" and any(word in script for word in IN_TMP))):
            why = "what the batch script names"
        if why:
            said.append(f"{place} stays the node's, since {why} is there: its files do not go along with checkpoints")
        else:
            found.append(place)
    return found, said


def is_slurms(mount: Mount, job: int) -> bool:
    """Return whether Slurm has made a mount for a job (job_container/tmpfs and namespace/linux): BASEPATH/JOB/.JOB/…"""
    return f"/{job}/.{job}/" in mount.root


def _is_in(path: str, place: str) -> bool:
    return path.startswith(f"{place}/") and os.path.lexists(path)


def init() -> list[str]:
    """Return the command line of an init, which the program's follows. Raise Misfit if this node has none."""
    path = next(filter(None, map(process.find, INITS)), None)
    if path is None:
        raise Misfit(f"this node has no init for a task without a container ({' or '.join(INITS)})", "install tini")
    return [path, "--"]


def make_directories(bundle: Bundle) -> None:
    """Make the job's TMPDIR if it is in a directory that the task has for itself, which is empty."""
    path = os.path.normpath(bundle.environment().get("TMPDIR") or "/tmp")
    if any(path.startswith(f"{place}/") for place in bundle.own_places):
        os.makedirs(path, mode=0o700, exist_ok=True)
