"""Refuse a bundle that rules out checkpoints, by its config.json alone."""

from __future__ import annotations

import os

from oci_criu_shim.container.node_fit import NEVER_JOINED
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.bundle import Bundle


def check(bundle: Bundle) -> None:
    """Raise ShimError if no checkpoint of this bundle's container could ever be taken or restored."""
    for fault in (_faulty_namespace, _faulty_ids, _faulty_sysctl, _faulty_mount, _faulty_seccomp, _faulty_cache):
        refused = fault(bundle)
        if refused is not None:
            what, hint = refused
            raise ShimError(f"{bundle.path}/config.json {what}", f"{hint}, or leave out --checkpoint")


def _faulty_namespace(bundle: Bundle) -> tuple[str, str] | None:
    if bundle.namespaces.get("pid") != "":
        return (
            "asks for no pid namespace of its own: CRIU restores each process under its old number, which may"
            " be taken on another node",
            'add {"type": "pid"} to linux.namespaces',
        )
    for kind in NEVER_JOINED:
        if bundle.namespaces.get(kind):
            return (
                f"joins a namespace of type {kind}, which others use too: a checkpoint would hold their state, too",
                "name no path for it in linux.namespaces",
            )
    return None


def _faulty_ids(bundle: Bundle) -> tuple[str, str] | None:
    """CRIU 4.2 takes on the ids that are 0 inside (check_user_ns() in criu/namespaces.c), and a user's dump reads the
    memory of this user's processes only."""
    mappings = bundle.config.get("linux", {}).get("uidMappings")
    if not mappings:
        return None
    if os.geteuid() == 0:
        if any(m["containerID"] == 0 for m in mappings):
            return None
        return "maps no id to 0, which CRIU needs", "map one in linux.uidMappings"
    own = {m["containerID"] + os.geteuid() - m["hostID"] for m in mappings if _maps(m, os.geteuid())}
    if own != {0}:
        return "maps your id to another one than 0, which CRIU can't dump", "map it to 0 in linux.uidMappings"
    if bundle.config["process"].get("user", {}).get("uid", 0) != 0:
        return (
            "runs the process as a user who is not you outside: a dump has no right to its memory",
            "leave process.user.uid at 0, which is you",
        )
    return None


def _maps(mapping: dict[str, int], outside: int) -> bool:
    return 0 <= outside - mapping["hostID"] < mapping["size"]


def _faulty_sysctl(bundle: Bundle) -> tuple[str, str] | None:
    if bundle.sysctls.get("kernel.shm_rmid_forced", "0") == "0":
        return None
    return "sets kernel.shm_rmid_forced, which would make CRIU destroy shared memory", "leave it out of linux.sysctl"


def _faulty_mount(bundle: Bundle) -> tuple[str, str] | None:
    for mount in bundle.mounts:
        options = {option.partition("=")[0] for option in mount.get("options", [])}
        if mount.get("uidMappings") or mount.get("gidMappings") or options.intersection(("idmap", "ridmap")):
            return (
                f"maps the ids of the mount {mount['destination']}, which CRIU can't restore",
                "leave out its uidMappings and gidMappings, or idmap in its options",
            )
    return None


def _faulty_seccomp(bundle: Bundle) -> tuple[str, str] | None:
    seccomp = bundle.config.get("linux", {}).get("seccomp", {})
    rules = [{"action": seccomp.get("defaultAction")}, *seccomp.get("syscalls", [])]
    if not any(rule["action"] == "SCMP_ACT_NOTIFY" for rule in rules):
        return None
    return (
        "has system calls decided by a process outside (SCMP_ACT_NOTIFY), which is no longer asked after a restore",
        "leave SCMP_ACT_NOTIFY out of linux.seccomp",
    )


def _faulty_cache(bundle: Bundle) -> tuple[str, str] | None:
    if not bundle.config.get("linux", {}).get("intelRdt"):
        return None
    return "asks for a share of the processor's cache, which a restore can't ask for", "leave out linux.intelRdt"
