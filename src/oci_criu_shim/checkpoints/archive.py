"""Write and read checkpoints as podman's archives: config.dump, spec.dump, dump.log, stats-dump and checkpoint/ in a
tar file.

The images in an archive are raw: podman reads no others. Archives of ours have our manifest and checksums as well, and
only those can be read again; what only podman needs is left out then. The batch script is below artifacts/, where
podman's container has it. So are the checkpoint's own descriptions and layer, since podman's have their names.
"""

from __future__ import annotations

import io
import os
import tarfile

from oci_criu_shim import files
from oci_criu_shim.checkpoints.committed import BESIDES, IMAGES, LAYER, MANIFEST, has_place
from oci_criu_shim.checkpoints.directory import DESCRIPTORS
from oci_criu_shim.checkpoints.integrity import CHECKSUMS
from oci_criu_shim.checkpoints.tar import PIECE
from oci_criu_shim.checkpoints.tree import Tree
from oci_criu_shim.errors import Damaged, ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO, TypeAlias

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.store import StoreStage

    Addition: TypeAlias = bytes | Tree | None  # None is a directory

COMPRESSORS = {".tar": (), ".tar.gz": ("gzip", "-c"), ".tar.zst": ("zstd", "-q", "-c")}
OURS = (MANIFEST, CHECKSUMS)
LOGS = ("dump.log", "stats-dump")  # beside the images here, beside checkpoint/ in an archive
ARTIFACTS, ROOT = "artifacts", LAYER  # podman's names
ORIGINALS = {f"{ARTIFACTS}/{name}": name for name in BESIDES}
PODMANS = (ROOT, *(f"{IMAGES}/{name}" for name in (MANIFEST, CHECKSUMS, DESCRIPTORS)))
FOREIGN = "only archives of `ckpt export` can be imported"


class Pipe:
    """The stream to or from an archive, through its compressor if it has one. ShimError is raised if the compressor
    fails."""

    def __init__(self, path: str, descriptor: int, writing: bool) -> None:
        self.path = path
        self.argv = _compressor(path)
        self.pid: int | None = None
        ours = descriptor
        if self.argv:
            reader, writer = os.pipe()
            ours, theirs = (writer, reader) if writing else (reader, writer)
            argv = self.argv if writing else [*self.argv, "-d"]
            fds = {0: theirs, 1: descriptor} if writing else {0: descriptor, 1: theirs}
            self.pid = process.spawn(argv, process.ENVIRONMENT, fds)
            os.close(theirs)
            os.close(descriptor)
        self.stream: IO[bytes] = open(ours, "wb" if writing else "rb")

    def __enter__(self) -> IO[bytes]:
        return self.stream

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.stream.close()
        except BrokenPipeError:
            kind = BrokenPipeError
        status = process.wait(self.pid) if self.pid else 0
        if status and kind in (None, BrokenPipeError):
            hint = "is it damaged, or the disk full?"
            raise ShimError(f"{self.path}: {os.path.basename(self.argv[0])} ended with {status}", hint) from None


def _compressor(path: str) -> list[str]:
    """Return the program that compresses an archive of that name, and its arguments; an empty list for a plain tar
    file."""
    for suffix, argv in COMPRESSORS.items():
        if path.endswith(suffix):
            if argv and process.find(argv[0]) is None:
                raise ShimError(f"there is no {argv[0]} on this node", f"install {argv[0]}, or name a file.tar")
            return [str(process.find(argv[0])), *argv[1:]] if argv else []
    raise ShimError(f"{path} is not named as an archive", f"end it in {', '.join(COMPRESSORS)}")


def require_new(path: str) -> None:
    """Raise ShimError if an archive can't be written to `path`."""
    _compressor(path)
    if os.path.lexists(path):
        raise ShimError(f"{path} exists", "remove it, or name another one")
    if not os.path.isdir(os.path.dirname(path)):
        raise ShimError(f"{os.path.dirname(path)} is not a directory", "make it, or name another one")


def write(checkpoint: Checkpoint, path: str, additions: Mapping[str, Addition], told: Callable[[int], None]) -> None:
    """Write `checkpoint`, and what podman wants besides, to the new file `path`, which appears when it is whole. `told`
    is called with the number of bytes written so far."""
    require_new(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ShimError(f"{path}: {error.strerror}", "name a file in a directory that you may write to") from None
    kept = os.dup(descriptor)
    try:
        with Pipe(path, descriptor, writing=True) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            writer = _Writer(archive, told)
            for name, content in {IMAGES: None, **additions}.items():
                writer.add(name, content)
            writer.add_own(checkpoint)
        os.fsync(kept)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(kept)


class _Writer:
    """Adds members to an archive. They belong to root, who alone restores them by podman, except for what is mounted in
    the container: that is ours there, like Slurm's script, whose mode CRIU compares."""

    def __init__(self, archive: tarfile.TarFile, told: Callable[[int], None]) -> None:
        self.archive = archive
        self.told = told
        self.total = 0

    def add_own(self, checkpoint: Checkpoint) -> None:
        """Add all files of the checkpoint."""
        names = [*OURS, *checkpoint.manifest["files"]]
        names += [f"{IMAGES}/{name}" for name in LOGS if f"{IMAGES}/{name}" not in names]
        elsewhere = {name: place for place, name in ORIGINALS.items()} | {f"{IMAGES}/{name}": name for name in LOGS}
        for name in names:
            source = os.path.join(checkpoint.path, name)
            if os.path.exists(source):  # the logs and the checksums may be missing
                with open(source, "rb") as stream:
                    self._add(elsewhere.get(name, name), os.stat(source).st_size, stream)

    def add(self, name: str, content: Addition) -> None:
        """Add a document, a directory or a tree."""
        if content is None:
            member = _member(name)
            member.type = tarfile.DIRTYPE
            self.archive.addfile(member)
        elif isinstance(content, Tree):
            self._add(name, content.size, content.stream())
        else:
            self._add(name, len(content), io.BytesIO(content))

    def _add(self, name: str, size: int, stream: IO[bytes]) -> None:
        member = _member(name)
        member.size = size
        self.archive.addfile(member, _Counted(stream, self._count))

    def _count(self, size: int) -> None:
        self.total += size
        self.told(self.total)


class _Counted(io.RawIOBase):
    """Reads `stream`, and says how many bytes of it were read."""

    def __init__(self, stream: IO[bytes], told: Callable[[int], None]) -> None:
        self.stream = stream
        self.told = told

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.told(len(data))
        return data


def _member(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode = 0o700
    if name.startswith(f"{ARTIFACTS}/"):
        member.uid, member.gid = os.geteuid(), os.getegid()
    return member


def read(path: str, stage: StoreStage, told: Callable[[int], None]) -> None:
    """Read the archive `path` to the stage, for adopt(); raise ShimError if it is none of ours.

    Only the content of a member is taken, and its name if a checkpoint has a file of that name. So no kind of member
    leads out of the stage, and nothing but plain files is made. `told` is called with how much of the archive is read.
    """
    _compressor(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ShimError(f"{path}: {error.strerror}", "name what `ckpt export` wrote") from None
    place = os.dup(descriptor)  # which a compressor moves, too
    try:
        with Pipe(path, descriptor, writing=False) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if not _is_podmans(member):
                    _extract(archive, member, stage, path, lambda: told(os.lseek(place, 0, os.SEEK_CUR)))
            while stream.read(PIECE):
                pass  # a compressor wants what follows the end of the archive read, too
    except (tarfile.TarError, EOFError) as error:
        raise ShimError(f"{path} is not a tar file, or damaged: {error}") from None
    finally:
        os.close(place)
    if not os.path.exists(os.path.join(stage.path, MANIFEST)):
        raise ShimError(f"{path} has no {MANIFEST}", FOREIGN)


def adopt(path: str, stage: StoreStage) -> Checkpoint:
    """Make what was read of the archive `path` the newest checkpoint of the stage's store; raise ShimError if it is
    damaged."""
    try:
        return stage.adopt()
    except Damaged as error:
        raise ShimError(f"{path}: {str(error).removeprefix(f'{stage.path}/')}", "export or copy it once more") from None


def _is_podmans(member: tarfile.TarInfo) -> bool:
    """Return whether a member is left out: only podman needs it, or it is a directory that is there anyway."""
    name = os.path.normpath(member.name)
    if member.isdir():
        return name in (IMAGES, ARTIFACTS, ".") or name.startswith(f"{ARTIFACTS}/")
    return name in PODMANS or (name.startswith(f"{ARTIFACTS}/") and name not in ORIGINALS)


def _extract(
    archive: tarfile.TarFile, member: tarfile.TarInfo, stage: StoreStage, path: str, told: Callable[[], None]
) -> None:
    name = member.name.removeprefix("./")
    if name in LOGS:
        target = os.path.join(stage.images, name)
    elif name in ORIGINALS:
        target = os.path.join(stage.path, ORIGINALS[name])
        files.remove_if_there(target)  # podman's file of that name came before
    elif name in OURS or has_place(name):
        target = os.path.join(stage.path, name)
    else:
        raise ShimError(f"{path}: {member.name!r} has no place in a checkpoint", FOREIGN)
    source = archive.extractfile(member) if member.isreg() else None
    if source is None:
        raise ShimError(f"{path}: {member.name!r} is not a plain file", "nothing was imported")
    files.make_directories(os.path.dirname(target))
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
        while data := source.read(PIECE):
            stream.write(data)
            told()
