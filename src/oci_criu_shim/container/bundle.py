"""Read an OCI bundle, and check its config.json before anything is started."""

from __future__ import annotations

import os

from oci_criu_shim import files, schema
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oci_criu_shim.files import Document, Json

CONFIG = "config.json"  # in a bundle
# Annotations of a podman container that was made from a job's checkpoint: the path of the job's root file system, which
# takes the place of an empty one; or else the octal mode that the directory of the job's root file system had.
ROOTFS, ROOTFS_MODE = "oci-criu-shim.rootfs", "oci-criu-shim.rootfs-mode"

CONTAINER = "oci-criu-shim.container"  # annotation of a bundle that was made for scrun: its container's name
# Annotation of a bare task (bare.py): the directories that it has for itself, with colons between.
BARE = "oci-criu-shim.bare"
SCRIPT = "oci-criu-shim.script"  # of a bare task that is a batch script: its path
# --checkpoint-hook (checkpoint_hook.py), in the environment of a step, and as an annotation.
HOOK_OPTION, HOOK = "SLURM_CHECKPOINT_HOOK", "oci-criu-shim.checkpoint-hook"


class Bundle:
    """A bundle at the absolute `path`; `config` is config.json, without its nulls, known to fit our schema."""

    def __init__(self, path: str, config: Document) -> None:
        self.path = path
        self.config = config

    @property
    def file(self) -> str:
        """The path of its user's config.json: in a Slurm task, `path` is Slurm's copy of the bundle."""
        return os.path.join(self.environment().get("SLURM_CONTAINER", "") or self.path, CONFIG)

    @property
    def rootfs(self) -> str:
        """The absolute path of the container's root file system."""
        return os.path.join(self.path, self.config["root"]["path"])

    @property
    def placed(self) -> Document:
        """config.json with an absolute root.path, for readers that don't know the bundle's place."""
        return {**self.config, "root": {**self.config["root"], "path": self.rootfs}}

    @property
    def annotations(self) -> dict[str, str]:
        """config.json's annotations."""
        found: dict[str, str] = self.config.get("annotations", {})
        return found

    @property
    def is_an_engines(self) -> bool:
        """Whether an engine made it for a single container, from a checkpoint or for Slurm."""
        return not {CONTAINER, ROOTFS, ROOTFS_MODE}.isdisjoint(self.annotations)

    @property
    def is_bare(self) -> bool:
        """Whether it stands for a task without a container, over the node's own root file system (bare.py).

        An image can bring the annotation, but no root: no engine makes a bundle whose root file system is the node's.
        """
        root: Document = self.config.get("root", {})
        return BARE in self.annotations and root.get("path") == "/"

    @property
    def own_places(self) -> list[str]:
        """The directories that a bare task has for itself."""
        return [place for place in self.annotations.get(BARE, "").split(":") if place]

    @property
    def process(self) -> Document:
        """config.json's process; empty if it has none, as a container that is never started may (config.md)."""
        found: Document = self.config.get("process", {})
        return found

    @property
    def terminal(self) -> bool:
        """Whether the process wants a terminal of its own."""
        return bool(self.process.get("terminal", False))

    @property
    def namespaces(self) -> dict[str, str]:
        """{type: path} of config.json's namespaces; the path of a new one is empty."""
        listed = self.config.get("linux", {}).get("namespaces", [])
        return {entry["type"]: entry.get("path", "") for entry in listed}

    @property
    def mounts(self) -> list[Document]:
        """config.json's mounts, in their order."""
        mounts: list[Document] = self.config.get("mounts", [])
        return mounts

    @property
    def mount_points(self) -> set[str]:
        """The places in the container of config.json's mounts."""
        return self._resolved(mount["destination"] for mount in self.mounts)

    @property
    def masked(self) -> set[str]:
        """The places in the container that linux.maskedPaths names."""
        return self._resolved(self.config.get("linux", {}).get("maskedPaths", []))

    def points_with(self, option: str) -> set[str]:
        """Return the places in the container of config.json's mounts that have an option."""
        return self._resolved(m["destination"] for m in self.mounts if option in m.get("options", []))

    def _resolved(self, paths: Iterable[str]) -> set[str]:
        from oci_criu_shim.host import mounts

        return {mounts.resolve(self.rootfs, path) for path in paths}

    def source(self, point: str) -> str | None:
        """Return the path on the node of what is mounted in the container at `point`; None if config.json has no mount.

        A bare task has the node's mounts. Each of linux.readonlyPaths is a mount of itself.
        """
        from oci_criu_shim.host import mounts

        if self.is_bare:
            return point
        found = mounts.bind_source(point, self.mounts, self.path, self.rootfs)
        if found is None and point in self.config.get("linux", {}).get("readonlyPaths", []):
            return self.rootfs + point
        return found

    def device(self, path: str) -> Document:
        """Return the entry of linux.devices for `path` in the container. Raise ShimError if there is none."""
        devices: list[Document] = self.config.get("linux", {}).get("devices", [])
        for entry in devices:
            if entry["path"] == path:
                return entry
        raise ShimError(
            f"{path} came from a tmpfs that is mounted nowhere, and config.json has no such device",
            "use the same bundle",
        )

    @property
    def sysctls(self) -> dict[str, str]:
        """{name, with dots: value} of linux.sysctl."""
        sysctls: dict[str, str] = self.config.get("linux", {}).get("sysctl", {})
        return sysctls

    @property
    def hooks(self) -> dict[str, list[Document]]:
        """{kind: [hook, …]}, as config.json has them."""
        hooks: dict[str, list[Document]] = self.config.get("hooks", {})
        return hooks

    def environment(self) -> dict[str, str]:
        """Return the process's environment, into which Slurm puts the job's own."""
        return dict(_pairs(self.process.get("env", [])))


def _pairs(entries: list[str]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        name, _, value = entry.partition("=")
        yield name, value


def checkpoint_hook(config: Document) -> str:
    """Return the hook that a config.json asks for: its environment's, or else its annotation's; empty if none."""
    given = [entry.partition("=") for entry in config.get("process", {}).get("env", [])]
    asked = [value for name, _, value in given if name == HOOK_OPTION]
    return asked[-1] if asked else str(config.get("annotations", {}).get(HOOK, ""))


def load(path: str, config: str | None = None) -> Bundle:
    """Return the bundle in the directory `path`; its configuration is in the file `config`, or else in config.json.

    Raise ShimError if that file can't be read, or doesn't fit the schema; the error then names every fault.
    """
    path = os.path.abspath(path)
    file = config or os.path.join(path, CONFIG)
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read()
        document = files.parse_json(text)
    except OSError as error:
        raise ShimError(
            f"cannot read {file}: {error.strerror}",
            "a bundle is a directory with config.json and a root file system; `crun spec` makes one",
        ) from None
    except ValueError as error:
        raise ShimError(f"{file} is not valid JSON: {error}", "correct it and try again") from None
    if "null" in text:
        document = _without_nulls(document)
    faults = schema.faults(document, "config")
    if faults:
        raise ShimError(
            f"{config or _users(path, document)} is not a valid OCI configuration: {'; '.join(faults)}",
            "see the OCI runtime specification, config.md",
        )
    return Bundle(path, document)


def _users(path: str, document: Json) -> str:
    """Return Bundle.file of a document that doesn't fit the schema."""
    try:
        return Bundle(path, document).file
    except (AttributeError, TypeError):
        return os.path.join(path, CONFIG)


def _without_nulls(value: Json) -> Json:
    """Return a value without members that are null, which are the same as missing ones to crun and runc."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def prepare_rootfs(bundle: Bundle) -> None:
    """Give a podman container that was made from a job's checkpoint the root file system that the job had.

    Raise ShimError if that is not on this node.
    """
    path, mode = map(bundle.annotations.get, (ROOTFS, ROOTFS_MODE))
    if mode:
        os.chmod(bundle.rootfs, int(mode, 8))  # podman 5.4 sets a mode of its own, and CRIU compares them
    if path is None:
        return
    if not os.path.isdir(path):
        raise ShimError(
            f"the container's root file system is not on this node: {path}", "export its checkpoint with --rootfs"
        )
    bundle.config["root"]["path"] = path
