"""What a bundle's config.json has that rules out checkpoints."""

from __future__ import annotations

import os

from oci_criu_shim.container.node_fit import NEVER_JOINED
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import ids, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.survey import Subject

IPC_LIMITS = ("kernel.sem", "kernel.msg", "kernel.shm", "kernel.auto_msgmni", "fs.mqueue.")


def _fault(subject: Subject, said: str, hint: str) -> ShimError:
    return ShimError(f"{subject.bundle.file} {said}", f"{hint}, or leave out --checkpoint")


def shared_pids(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if the container has no pid namespace of its own."""
    if subject.bundle.namespaces.get("pid") != "":
        said = (
            "asks for no pid namespace of its own: CRIU restores each process under its old number, which may"
            " be taken on another node"
        )
        yield _fault(subject, said, 'add {"type": "pid"} to linux.namespaces')


def joined_namespaces(subject: Subject) -> Iterator[ShimError]:
    """Yield those that CRIU can't leave out of a checkpoint."""
    for kind in NEVER_JOINED:
        if subject.bundle.namespaces.get(kind):
            said = f"joins a namespace of type {kind}, which others use too: a checkpoint would hold their state, too"
            yield _fault(subject, said, "name no path for it in linux.namespaces")


def taken_on(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if CRIU finds no id that it can take on inside: for root's container, the one that is 0.

    A user's CRIU takes on the user's own (spank/criu_ids.c).
    """
    mappings = subject.bundle.config.get("linux", {}).get("uidMappings")
    if not mappings:
        return
    if not subject.is_users:
        if all(m["containerID"] != 0 for m in mappings):
            yield _fault(subject, "maps no id to 0, which CRIU needs", "map one in linux.uidMappings")
    elif _own(subject) is None:
        yield _fault(subject, "does not map your own id, which a restore needs", "map it in linux.uidMappings")


def another_user(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if the process is another user's: a user's dump reads the memory of their own processes only."""
    own = _own(subject) if subject.is_users else None
    if own is not None and subject.bundle.process.get("user", {}).get("uid", 0) != own:
        said = "runs the process as a user who is not you outside: a dump has no right to its memory"
        yield _fault(subject, said, f"set process.user.uid to {own}, which is you")


def _own(subject: Subject) -> int | None:
    """Return the user's own number inside; None without one."""
    mappings = subject.bundle.config.get("linux", {}).get("uidMappings", [])
    return ids.inside(ids.configured(mappings), os.geteuid())


def shared_memory(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if the kernel is to destroy System V memory that is detached, as CRIU does with it."""
    if subject.bundle.sysctls.get("kernel.shm_rmid_forced", "0") != "0":
        said = "sets kernel.shm_rmid_forced, which would make CRIU destroy shared memory"
        yield _fault(subject, said, "leave it out of linux.sysctl")


def ipc_limits(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if it sets limits that a restore can't: as another user than number 0, to whom they belong."""
    set_here = [name for name in subject.bundle.sysctls if name.startswith(IPC_LIMITS)]
    if set_here and subject.is_users and _own(subject):
        said = f"sets {set_here[0]}, which belongs to number 0 inside: a restore, which runs as you, can't set it"
        yield _fault(subject, said, "leave it out of linux.sysctl")


def mapped_mounts(subject: Subject) -> Iterator[ShimError]:
    """Yield the mounts with ids of their own: CRIU makes none."""
    for mount in subject.bundle.mounts:
        options = {option.partition("=")[0] for option in mount.get("options", [])}
        if mount.get("uidMappings") or mount.get("gidMappings") or options.intersection(("idmap", "ridmap")):
            said = f"maps the ids of the mount {mount['destination']}, which CRIU can't restore"
            yield _fault(subject, said, "leave out its uidMappings and gidMappings, or idmap in its options")


def asked_outside(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if another process decides about system calls."""
    seccomp = subject.bundle.config.get("linux", {}).get("seccomp", {})
    rules = [{"action": seccomp.get("defaultAction")}, *seccomp.get("syscalls", [])]
    if any(rule["action"] == "SCMP_ACT_NOTIFY" for rule in rules):
        said = "has system calls decided by a process outside (SCMP_ACT_NOTIFY), which is no longer asked after a"
        yield _fault(subject, f"{said} restore", "leave SCMP_ACT_NOTIFY out of linux.seccomp")


def cache(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if it has a share of the processor's cache."""
    if subject.bundle.config.get("linux", {}).get("intelRdt"):
        said = "asks for a share of the processor's cache, which a restore can't ask for"
        yield _fault(subject, said, "leave out linux.intelRdt")


def own_group(subject: Subject) -> Iterator[ShimError]:
    """Yield a fault if it has a control group of its own: a user's restore can't make it again."""
    if subject.own_group:
        yield ShimError(
            "the container has a control group of its own, which a user's restore can't make again",
            "leave out --cgroup-manager and --systemd-cgroup: it then stays in its task's group",
        )


def mounts_below_binds(subject: Subject) -> Iterator[ShimError]:
    """Yield those mounts that a user's restore can't make, as the node is now."""
    if not subject.is_users:
        return
    for mount in subject.bundle.mounts:
        if mounts.is_bind(mount):
            source = os.path.join(subject.bundle.path, mount.get("source", ""))
        elif mount.get("type") == "sysfs" and "network" not in subject.bundle.namespaces:
            source = "/sys"  # crun can only bind the node's then
        else:
            continue
        yield from mounts.faults_below(mount["destination"], source, subject.node)
