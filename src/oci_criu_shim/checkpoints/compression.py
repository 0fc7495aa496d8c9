"""Compress a committed checkpoint: after a dump that was raw, since the disk is fast (dump/page_server.py).

Large images that only CRIU reads are compressed into the stage that the checkpoint came from, and flushed. They then
move beside the raw ones, `checksums.json` gets their checksums, a new manifest names them, and the raw ones are
removed. If the process is killed on the way, the checkpoint is still whole: its manifest names one kind of each file,
and sweep() removes the other.
"""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.checkpoints import codec, committed, integrity
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from oci_criu_shim.checkpoints.codec import Codec
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.manifest import Compressed, Manifest

# Beginnings of names of images that stay as they are, since we interpret them, too: cli/ckpt/images.py, restore/.
INTERPRETED = ("core-", "fdinfo-", "files", "ids-", "inventory", "mountpoints-", "pagemap-", "pstree", "seccomp", "uts")
# Reasons after which the container has ended and its job waits to be requeued. Compression may then take the seconds
# below at most, and half of what Slurm leaves. Other containers run on, and a child compresses (task/compress.py).
HURRIED = ("preempt", "timeout")
SHORTEST, TIMES_FROZEN = 1.0, 4.0  # seconds; or this many times as long as the container was frozen
START = 0.2  # of the time, before which it is not judged: it has to find its pace


class LateError(Exception):
    """Compressing would take longer than it may."""


class Compression:
    """Compresses a store's checkpoints by `codec`. `left` returns how many seconds Slurm leaves the job if it is about
    to be ended. Failures are told to `debug` only, since the checkpoint is as good without.

    If it is not `always`, what was written raw stays so.
    """

    def __init__(
        self, codec: Codec, left: Callable[[], float], debug: Callable[[str], None], always: bool = True
    ) -> None:
        self.codec = codec
        self.always = always
        self.left = left
        self.debug = debug

    def hurries(self, manifest: Manifest) -> bool:
        """Return whether a checkpoint that was just committed must be compressed now or never."""
        return self.always and manifest["reason"] in HURRIED

    def apply(self, checkpoint: Checkpoint, stage: str) -> bool:
        """Compress a committed checkpoint by way of the directory `stage`; return whether that was done. It has all its
        checksums then."""
        sizes = {name: size for name, size in checkpoint.manifest["files"].items() if _is_bulk(name, size)}
        if not sizes:
            return False
        try:
            pace = Pace(self._limit(checkpoint.manifest), sum(sizes.values()))
            packed = self._pack(checkpoint, sizes, stage, pace)
            if packed:
                _replace(checkpoint, packed, stage)
        except (ShimError, OSError, ValueError, LateError) as error:
            self.debug(f"{checkpoint.path} stays as it is: {error}")
            return False
        return bool(packed)

    def _limit(self, manifest: Manifest) -> float:
        if not self.hurries(manifest):
            return float("inf")
        return min(max(SHORTEST, TIMES_FROZEN * manifest["frozen_seconds"]), self.left() / 2)

    def _pack(self, checkpoint: Checkpoint, sizes: Mapping[str, int], stage: str, pace: Pace) -> dict[str, Compressed]:
        """Compress what is worth it; return {name of the compressed file: what the manifest says of it}."""
        files.make_directories(os.path.join(stage, committed.IMAGES))
        packed: dict[str, Compressed] = {}
        with codec.Pool() as pool:
            for name, size in sizes.items():
                target = name + self.codec.suffix
                paths = os.path.join(checkpoint.path, name), os.path.join(stage, target)
                if codec.pack(self.codec, *paths, pool, pace.tell):
                    packed[target] = {"codec": self.codec.name, "size": size, "frame": codec.FRAME}
        return packed


class Pace:
    """Watches that `total` bytes will be done within `limit` seconds."""

    def __init__(self, limit: float, total: int) -> None:
        self.limit = limit
        self.total = total
        self.done = 0
        self.begin = time.monotonic()

    def tell(self, size: int) -> None:
        """Count `size` bytes more as done; raise LateError if the rest would take too long."""
        self.done += size
        if time.monotonic() - self.begin > self.limit * max(self.done / self.total, START):
            raise LateError(f"it can't be compressed within {self.limit:.1f} s")


def _is_bulk(name: str, size: int) -> bool:
    directory, _, base = name.rpartition("/")
    bulk = directory == committed.IMAGES and size >= integrity.LARGE and not base.startswith(INTERPRETED)
    return bulk and not base.endswith(tuple(codec.SUFFIXES.values()))


def _replace(checkpoint: Checkpoint, packed: dict[str, Compressed], stage: str) -> None:
    """Put the files `packed` of `stage` in the place of the raw ones."""
    manifest, raw = checkpoint.manifest, set(map(codec.original, packed))
    ours = {name: os.stat(os.path.join(stage, name)).st_size for name in packed}
    kept = {name: size for name, size in manifest["files"].items() if name not in raw}
    known = integrity.checksums(checkpoint)  # readers of the older manifest look for the raw files'
    large = {name: size for name, size in kept.items() if name not in manifest["sha256"] and name not in known}
    found = known | integrity.Hashing(stage, ours).result() | integrity.Hashing(checkpoint.path, large).result()
    sizes, all_packed = kept | ours, packed | manifest.get("compressed", {})  # the parents' among them
    manifest = {**manifest, "files": sizes, "bytes": sum(sizes.values())}
    manifest |= {"version": committed.COMPRESSED, "compressed": all_packed}
    try:
        for name in packed:
            os.rename(os.path.join(stage, name), os.path.join(checkpoint.path, name))
        files.sync(checkpoint.images)
        integrity.write_checksums(checkpoint.path, found)
        manifest = sealed(manifest)
        files.write_json(os.path.join(checkpoint.path, committed.MANIFEST), manifest, durable=True, indent=1)
    except BaseException:
        _remove(checkpoint.path, packed)
        raise
    checkpoint.manifest = manifest
    try:
        files.sync(checkpoint.path)
        _remove(checkpoint.path, raw)
    except OSError:
        pass  # sweep() tries again


def _remove(path: str, names: Iterable[str]) -> None:
    for name in names:
        files.remove_if_there(os.path.join(path, name))


def sweep(path: str) -> None:
    """Remove from the checkpoint `path` what a process left that was killed while compressing it."""
    try:
        for name in os.listdir(path):
            if name.endswith(files.TEMPORARY):
                files.remove_if_there(os.path.join(path, name))
        names = os.listdir(os.path.join(path, committed.IMAGES))
        packed = [name for name in names if name.endswith(tuple(codec.SUFFIXES.values()))]
        known = committed.read(path).manifest["files"] if packed else {}
        for name in packed:
            stale = codec.original(name) if f"{committed.IMAGES}/{name}" in known else name
            files.remove_if_there(os.path.join(path, committed.IMAGES, stale))
    except (ShimError, OSError):
        pass  # it is damaged or gone, and its next reader says so
