"""An OCI bundle: its config.json, read and checked before anything is started."""

from __future__ import annotations

import json
import os

from oci_criu_shim import schema
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


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


def load(path: str) -> Bundle:
    """The bundle in directory `path`.

    Raises ShimError where it is missing or unreadable, or naming every fault of its config.json.
    """
    path = os.path.abspath(path)
    file = os.path.join(path, "config.json")
    try:
        with open(file, encoding="utf-8") as stream:
            config = json.load(stream)
    except OSError as error:
        raise ShimError(
            f"cannot read {file}: {error.strerror}",
            "a bundle is a directory with config.json and a root file system; `crun spec` makes one",
        ) from None
    except ValueError as error:
        raise ShimError(f"{file} is not valid JSON: {error}", "correct it and try again") from None
    faults = schema.faults(config, "config")
    if faults:
        raise ShimError(
            f"{file} is not a valid OCI configuration: {'; '.join(faults)}",
            "see the OCI runtime specification, config.md",
        )
    return Bundle(path, config)


def check_checkpointable(bundle: Bundle) -> None:
    """Raise ShimError where no checkpoint of this bundle's container could ever be restored."""
    if bundle.namespaces.get("pid") != "":
        raise ShimError(
            f"{bundle.path}/config.json asks for no pid namespace of its own: CRIU restores every"
            " process under the number it had, which may be taken on another node",
            'add {"type": "pid"} to linux.namespaces, or leave out --checkpoint',
        )
    for kind in ("ipc", "mount", "user"):
        if bundle.namespaces.get(kind):
            raise ShimError(
                f"{bundle.path}/config.json joins a namespace of type {kind}, which others use too: a checkpoint"
                " would hold what is theirs",
                "name no path for it in linux.namespaces, or leave out --checkpoint",
            )
    if bundle.sysctls.get("kernel.shm_rmid_forced", "0") != "0":
        raise ShimError(
            f"{bundle.path}/config.json sets kernel.shm_rmid_forced: CRIU would destroy shared memory by it",
            "leave it out of linux.sysctl, or leave out --checkpoint",
        )
