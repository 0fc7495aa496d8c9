"""Unpack compressed checkpoints for a while: CRIU and podman read only raw images."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints import codec, committed, integrity, scratch
from oci_criu_shim.checkpoints.codec import Codec
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.errors import Damaged, Misfit, ShimError
from oci_criu_shim.host import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.checkpoints.integrity import Verification
    from oci_criu_shim.checkpoints.manifest import Compressed, Manifest

NODE_LOCAL = "/var/tmp"
SPARE = 1.1  # times the bytes needed must be free


class Unpacked:
    """The checkpoint of `verification` with raw images, while the block lasts; the checkpoint itself if its images are
    raw.

    The raw images are on the node's own disk, which is faster than a shared file system; or beside the checkpoint, if
    that disk is memory or too small. `link`, if any, is a symbolic link to them meanwhile, by which a job's epilog
    finds what it has to remove. What is unpacked is verified by the way: on a slow disk, reading it once more would
    take as long again. ShimError is raised if a file is damaged or can't be unpacked, Misfit if only this node can't do
    it.
    """

    def __init__(self, verification: Verification, link: str | None = None) -> None:
        self.verification = verification
        self.checkpoint = verification.checkpoint
        self.link = link
        self.path: str | None = None

    def __enter__(self) -> Checkpoint:
        if not self.checkpoint.manifest.get("compressed"):
            return self.checkpoint
        scratch.sweep(NODE_LOCAL)
        try:
            return self._unpack()
        except BaseException:
            self._remove()
            raise

    def __exit__(self, *_: object) -> None:
        self._remove()

    def done(self) -> int:
        """Return how many bytes are unpacked so far."""
        return files.tree_size(self.path) if self.path else 0

    def _unpack(self) -> Checkpoint:
        manifest = raw_manifest(self.checkpoint.manifest)
        error: OSError | None = None
        for place in _places(self.checkpoint, manifest["bytes"]):
            try:
                self._make(place)
                self._fill(manifest)
                return Checkpoint(str(self.path), manifest)
            except OSError as failed:
                error = failed
                self._remove()
        said = f"{error.filename or NODE_LOCAL}: {error.strerror}" if error else "no room"
        raise Misfit(f"{self.checkpoint.path} can't be unpacked: {said}", f"make room in {NODE_LOCAL}")

    def _make(self, place: str) -> None:
        path = os.path.join(place, scratch.name())
        os.mkdir(path, 0o700)
        self.path = path
        if self.link:
            os.symlink(path, self.link)

    def _fill(self, manifest: Manifest) -> None:
        packed = self.checkpoint.manifest["compressed"]
        with codec.Pool() as pool:
            for name in self.checkpoint.manifest["files"]:
                if not committed.has_place(name):
                    raise ShimError(f"{self.checkpoint.path}: {name!r} has no place in a checkpoint")
                files.make_directories(os.path.dirname(os.path.join(str(self.path), name)))
                if name in packed:
                    self._unpack_one(name, packed[name], pool)
                else:
                    self._copy(name)

    def _unpack_one(self, name: str, about: Compressed, pool: codec.Pool) -> None:
        source, target = os.path.join(self.checkpoint.path, name), os.path.join(str(self.path), codec.original(name))
        chunks = codec.unpack(Codec(about["codec"], 0), source, target, about["size"], about["frame"], pool)
        try:
            self.verification.follow(name, chunks)
        except ValueError as error:
            raise Damaged(f"{source} is damaged: it can't be unpacked: {error}") from None

    def _copy(self, name: str) -> None:
        source, target = (os.path.join(directory, name) for directory in (self.checkpoint.path, str(self.path)))
        self.verification.follow(name, _copy(source, target))

    def _remove(self) -> None:
        if self.path:
            if self.link:
                files.remove_if_there(self.link)
            try:
                files.remove_tree(self.path)
            except OSError:
                pass  # it will be swept
            self.path = None


def _copy(source: str, target: str) -> Iterator[bytes]:
    """Copy a file; yield all its bytes meanwhile, in order."""
    with open(source, "rb", buffering=0) as original, open(target, "xb") as copy:
        while data := original.read(integrity.BUFFER):
            copy.write(data)
            yield data


def raw_manifest(manifest: Manifest) -> Manifest:
    """Return the manifest that a checkpoint had before it was compressed."""
    packed = manifest["compressed"]
    sizes = {name: size for name, size in manifest["files"].items() if name not in packed}
    sizes |= {codec.original(name): about["size"] for name, about in packed.items()}
    raw: Manifest = {**manifest, "version": committed.RAW, "files": sizes, "bytes": sum(sizes.values())}
    del raw["compressed"]
    return sealed(raw)


def complete(checkpoint: Checkpoint) -> None:
    """Add manifest and checksums to an unpacked checkpoint."""
    files.write_json(os.path.join(checkpoint.path, committed.MANIFEST), checkpoint.manifest, indent=1)
    integrity.add_checksums(checkpoint)


def _places(checkpoint: Checkpoint, size: int) -> Iterator[str]:
    """Yield the directories that it may be unpacked to."""
    node = mounts.read()
    mount = mounts.deepest(os.path.realpath(NODE_LOCAL), node)
    # A file system in memory would take the job's own, which the container needs.
    if mount and mount.kind not in mounts.IN_MEMORY and _free(NODE_LOCAL) > SPARE * size:
        yield NODE_LOCAL
    yield os.path.dirname(checkpoint.path)


def _free(path: str) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
