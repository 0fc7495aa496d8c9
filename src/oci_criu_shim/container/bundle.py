"""An OCI bundle: its config.json, read and checked before anything is started."""

from __future__ import annotations

import os

from oci_criu_shim import files, schema
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


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
