"""An OCI bundle: its config.json, read and checked before anything is started."""

from __future__ import annotations

import os

from oci_criu_shim import files, schema
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


# Namespaces that CRIU could not leave out of a checkpoint, and the one that a restore has to make with other clocks.
NEVER_JOINED = ("ipc", "mount", "time", "user")
# Annotations of podman's containers that are made of jobs' checkpoints: the job's root file system, in place of an
# empty one, or else the mode, in octal, of the directory that it was in.
ROOTFS, ROOTFS_MODE = "oci-criu-shim.rootfs", "oci-criu-shim.rootfs-mode"

CONTAINER = "oci-criu-shim.container"  # the annotation of a bundle that was made for one of scrun's: its name


class Bundle:
    """`path` is absolute; `config` is config.json as it stands, known to fit our schema."""

    def __init__(self, path: str, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    @property
    def rootfs(self) -> str:
        """The absolute path of the container's root file system."""
        return os.path.join(self.path, self.config["root"]["path"])

    @property
    def placed(self) -> dict[str, Any]:
        """config.json as those need it who don't know where the bundle is."""
        return {**self.config, "root": {**self.config["root"], "path": self.rootfs}}

    @property
    def annotations(self) -> dict[str, str]:
        """config.json's."""
        found: dict[str, str] = self.config.get("annotations", {})
        return found

    @property
    def is_an_engines(self) -> bool:
        """Whether an engine made it for one container, of a checkpoint or for Slurm: it is no other one's."""
        return not {CONTAINER, ROOTFS, ROOTFS_MODE}.isdisjoint(self.annotations)

    @property
    def terminal(self) -> bool:
        """Whether the process wants a terminal of its own."""
        return bool(self.config["process"].get("terminal", False))

    @property
    def namespaces(self) -> dict[str, str]:
        """{type: path, or an empty string for a new one}, as config.json has them."""
        listed = self.config.get("linux", {}).get("namespaces", [])
        return {entry["type"]: entry.get("path", "") for entry in listed}

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """config.json's mounts, in their order."""
        mounts: list[dict[str, Any]] = self.config.get("mounts", [])
        return mounts

    def device(self, path: str) -> dict[str, Any]:
        """The entry of linux.devices that is at `path` in the container; ShimError where there is none."""
        for entry in self.config.get("linux", {}).get("devices", []):
            if entry["path"] == path:
                found: dict[str, Any] = entry
                return found
        raise ShimError(f"{path} is of a tmpfs that nobody sees, and no device of config.json's", "use the same bundle")

    @property
    def sysctls(self) -> dict[str, str]:
        """{name, with dots: value} of linux.sysctl."""
        sysctls: dict[str, str] = self.config.get("linux", {}).get("sysctl", {})
        return sysctls

    @property
    def hooks(self) -> dict[str, Any]:
        """{kind: [hook, …]}, as config.json has them."""
        hooks: dict[str, Any] = self.config.get("hooks", {})
        return hooks

    def environment(self) -> dict[str, str]:
        """The process's environment; Slurm puts the job's own into it."""
        return dict(_pairs(self.config["process"].get("env", [])))


def _pairs(entries: list[str]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        name, _, value = entry.partition("=")
        yield name, value


def load(path: str, config: str | None = None) -> Bundle:
    """The bundle in directory `path`, whose configuration may be in another file than config.json.

    Raises ShimError where it is missing or unreadable, or naming every fault of its config.json.
    """
    path = os.path.abspath(path)
    file = config or os.path.join(path, "config.json")
    try:
        document = files.read_json(file)
    except OSError as error:
        raise ShimError(
            f"cannot read {file}: {error.strerror}",
            "a bundle is a directory with config.json and a root file system; `crun spec` makes one",
        ) from None
    except ValueError as error:
        raise ShimError(f"{file} is not valid JSON: {error}", "correct it and try again") from None
    faults = schema.faults(document, "config")
    if faults:
        raise ShimError(
            f"{file} is not a valid OCI configuration: {'; '.join(faults)}",
            "see the OCI runtime specification, config.md",
        )
    return Bundle(path, document)


def prepare_rootfs(bundle: Bundle) -> None:
    """Have podman's container that is made of a job's checkpoint find its root file system as the job's had it;
    ShimError where that is not here."""
    path, mode = map(bundle.annotations.get, (ROOTFS, ROOTFS_MODE))
    if mode:
        os.chmod(bundle.rootfs, int(mode, 8))  # podman 5.4 has a mode of its own for it, and CRIU compares
    if path is None:
        return
    if not os.path.isdir(path):
        raise ShimError(
            f"the container's root file system is not on this node: {path}", "export its checkpoint with --rootfs"
        )
    bundle.config["root"]["path"] = path


def check_checkpointable(bundle: Bundle) -> None:
    """Raise ShimError where no checkpoint of this bundle's container could ever be taken or restored."""
    for fault in (_faulty_namespace, _faulty_ids, _faulty_sysctl, _faulty_mount, _faulty_seccomp, _faulty_cache):
        refused = fault(bundle)
        if refused is not None:
            what, hint = refused
            raise ShimError(f"{bundle.path}/config.json {what}", f"{hint}, or leave out --checkpoint")


def check_restorable(bundle: Bundle) -> None:
    """Raise ShimError where a container of this bundle would share what a checkpoint brings along as its own."""
    for kind in ("pid", *NEVER_JOINED):
        if bundle.namespaces.get(kind):
            raise ShimError(
                f"{bundle.path}/config.json joins a namespace of type {kind}, and the checkpoint has one of its own",
                "name no path for it in linux.namespaces; of a pod: do not --share it",
            )


def _faulty_namespace(bundle: Bundle) -> tuple[str, str] | None:
    if bundle.namespaces.get("pid") != "":
        return (
            "asks for no pid namespace of its own: CRIU restores every process under the number it had, which"
            " may be taken on another node",
            'add {"type": "pid"} to linux.namespaces',
        )
    for kind in NEVER_JOINED:
        if bundle.namespaces.get(kind):
            return (
                f"joins a namespace of type {kind}, which others use too: a checkpoint would hold what is theirs",
                "name no path for it in linux.namespaces",
            )
    return None


def _faulty_ids(bundle: Bundle) -> tuple[str, str] | None:
    """CRIU 4.2 takes on the ids that are 0 inside (check_user_ns() in criu/namespaces.c), and a user's dump
    reads the memory of his own processes only."""
    mappings = bundle.config.get("linux", {}).get("uidMappings")
    if not mappings:
        return None
    if os.geteuid() == 0:
        if any(m["containerID"] == 0 for m in mappings):
            return None
        return "maps no id to 0, which CRIU can't do without", "map one in linux.uidMappings"
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
    return "sets kernel.shm_rmid_forced: CRIU would destroy shared memory by it", "leave it out of linux.sysctl"


def _faulty_mount(bundle: Bundle) -> tuple[str, str] | None:
    for mount in bundle.mounts:
        options = {option.partition("=")[0] for option in mount.get("options", [])}
        if mount.get("uidMappings") or mount.get("gidMappings") or options.intersection(("idmap", "ridmap")):
            return (
                f"maps the ids of the mount {mount['destination']}, which CRIU can't do again",
                "leave out its uidMappings and gidMappings, or idmap of its options",
            )
    return None


def _faulty_seccomp(bundle: Bundle) -> tuple[str, str] | None:
    seccomp = bundle.config.get("linux", {}).get("seccomp", {})
    rules = [{"action": seccomp.get("defaultAction")}, *seccomp.get("syscalls", [])]
    if not any(rule["action"] == "SCMP_ACT_NOTIFY" for rule in rules):
        return None
    return (
        "has system calls decided by a process outside (SCMP_ACT_NOTIFY), which is not asked any more after a restore",
        "leave SCMP_ACT_NOTIFY out of linux.seccomp",
    )


def _faulty_cache(bundle: Bundle) -> tuple[str, str] | None:
    if not bundle.config.get("linux", {}).get("intelRdt"):
        return None
    return "asks for a share of the processor's cache, which a restore can't", "leave out linux.intelRdt"
