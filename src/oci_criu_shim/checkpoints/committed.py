"""Read a committed checkpoint, and check what is read before anything trusts it; store.py describes its directory."""

from __future__ import annotations

import os
import stat
import time

from oci_criu_shim import files, schema
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.errors import Damaged, Others, ShimError, cause_of
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from oci_criu_shim.checkpoints.manifest import Manifest

    Result = TypeVar("Result")

IMAGES = "checkpoint"
PARENT = "parent"  # CRIU's name for it (criu/include/image.h)
MANIFEST = "manifest.json"
RAW, COMPRESSED = 1, 2  # versions of manifests: readers of version 1 don't know compressed images
SPEC = "spec.dump"  # the container's config.json
ABOUT = "config.dump"  # who made it, in the form of podman's archives
SCRIPT = "startup"  # the batch script that Slurm had mounted
LAYER, DELETED = "rootfs-diff.tar", "deleted.files"  # changes to the root file system: layer.py
NOTABLE_LAYER = 64 << 20  # bytes from which on the user is told of them: they are written while all is frozen
OWN = "own.tar"  # the files in the directories that a bare task has for itself
BESIDES = (ABOUT, SPEC, SCRIPT, LAYER, DELETED, OWN)  # the files beside the images
OWNERS = "a checkpoint is for its owner alone"


class Checkpoint:
    """A committed checkpoint, its manifest read and checked."""

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def seq(self) -> int:
        """Its number among the task's checkpoints, from 1."""
        return int(os.path.basename(self.path))

    @property
    def images(self) -> str:
        """The directory of CRIU's images."""
        return os.path.join(self.path, IMAGES)

    @property
    def parent(self) -> int | None:
        """The number of the checkpoint that it is an increment of; None if it is whole."""
        return self.manifest.get("increment_of")

    @property
    def sizes(self) -> dict[str, int]:
        """{name: bytes} of its files before any were compressed."""
        packed = self.manifest.get("compressed", {})
        return {name: packed[name]["size"] if name in packed else size for name, size in self.manifest["files"].items()}

    @property
    def dumped(self) -> int:
        """How many bytes were dumped for it, uncompressed and without its parent's."""
        return self._own(self.sizes)

    @property
    def written(self) -> int:
        """How many bytes it has on disk, without its parent's."""
        return self._own(self.manifest["files"])

    def _own(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes of its files without another checkpoint's; a parent may be a round of its own."""
        others = f"{IMAGES}/{PARENT}/" if self.parent else "/"
        return sum(size for name, size in sizes.items() if not name.startswith(others))


def age(created: str) -> int:
    """Return how many seconds ago the time `created` of a manifest was; 0 if it is no time."""
    import calendar

    try:
        return max(int(time.time()) - calendar.timegm(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ")), 0)
    except ValueError:
        return 0


def read(path: str) -> Checkpoint:
    """Return the checkpoint in `path`; raise ShimError, with the file's name, if it is not whole or belongs to somebody
    else.

    integrity.Verification checks the content of its files.
    """
    return steadily(_read_manifest(path), _check_files)


def steadily(checkpoint: Checkpoint, use: Callable[[Checkpoint], Result]) -> Result:
    """Return use(checkpoint). If that fails because the files that its manifest names were compressed and removed
    meanwhile, try once more: there are no locks."""
    try:
        return use(checkpoint)
    except (ShimError, OSError):
        try:
            found = _read_manifest(checkpoint.path)
        except ShimError:
            found = checkpoint
        if found.manifest.get("compressed") == checkpoint.manifest.get("compressed"):
            raise
    return use(found)


def _read_manifest(path: str) -> Checkpoint:
    _check_kind(path, stat.S_ISDIR, "directory")
    name = os.path.join(path, MANIFEST)
    try:
        manifest = files.read_json(name)
    except (OSError, ValueError) as error:
        raise Damaged(f"{name} cannot be read: {cause_of(error)}") from None
    _check_manifest(name, manifest)
    return Checkpoint(path, manifest)


def _check_files(checkpoint: Checkpoint) -> Checkpoint:
    for file, size in checkpoint.manifest["files"].items():
        path = os.path.join(checkpoint.path, file)
        found = _check_kind(path, stat.S_ISREG, "file")
        if found != size:
            raise Damaged(f"{path} has {found} bytes, not {size}")
    return checkpoint


def _check_manifest(name: str, manifest: object) -> None:
    document = manifest if isinstance(manifest, dict) else {}
    version = document.get("version")
    if isinstance(version, int) and version > COMPRESSED:
        raise ShimError(
            f"{name} is of version {version}, and this oci-criu-shim reads up to version {COMPRESSED}",
            "restore it with the version that wrote it",
        )
    faults = schema.faults(manifest, "manifest")
    if faults:
        raise Damaged(f"{name} is not a manifest this version reads: {'; '.join(faults)}")
    if document != sealed(document):
        raise Damaged(f"{name} is damaged: its checksum is not the one that it says")


def _check_kind(path: str, is_kind: Callable[[int], bool], kind: str) -> int:
    """Return the size of a file or directory; raise ShimError if it is not of that kind, or not the caller's."""
    try:
        found = os.lstat(path)
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    if not is_kind(found.st_mode):
        raise Damaged(f"{path} is not a {kind}")
    if found.st_uid != os.geteuid():
        owner = process.user_name(found.st_uid)
        raise Others(f"{path} belongs to user {owner}", OWNERS, owner)
    return found.st_size


def has_place(name: str) -> bool:
    """Return whether a checkpoint may have a file `name`: an image or a file beside the images, and no way out of its
    directory."""
    directory, _, base = name.rpartition("/")
    first, *parents = directory.split("/")
    return name in BESIDES or (first == IMAGES and set(parents) <= {PARENT} and base not in ("", ".", "..", PARENT))
