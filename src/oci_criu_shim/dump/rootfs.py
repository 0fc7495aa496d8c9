"""Keep a task's changes of its root file system in its checkpoints, if another node would not have them."""

from __future__ import annotations

import os
import select

from oci_criu_shim import files
from oci_criu_shim.checkpoints import baseline
from oci_criu_shim.checkpoints.committed import DELETED, LAYER
from oci_criu_shim.container import record
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host import criu, mounts, process
from oci_criu_shim.host.userns import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from oci_criu_shim.checkpoints.stage import Stage
    from oci_criu_shim.checkpoints.store import Store
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.log import Log

PAUSE_SECONDS = 0.001


def begin(store: Store, bundle: Bundle, setting: str, log: Log) -> None:
    """Note the files of the root file system before the task of `store` runs, if its checkpoints are to have changes.

    If that fails, say so: the checkpoints will be without them.
    """
    if not _are_wanted(bundle, setting) or not os.path.isdir(bundle.rootfs):
        return  # if it is not there, the backend will say so
    try:
        baseline.note(store.path, bundle.rootfs)
    except OSError as error:
        log.error(f"checkpoints will be without what is changed in {bundle.rootfs}: {line_of(error)}")
        return
    try:
        process.fork_in_background(lambda: _note_marks(store.path, bundle.rootfs))
    except OSError as error:
        log.debug(str(error))


def _note_marks(task: str, rootfs: str) -> int:
    try:
        baseline.note_marks(task, rootfs)
    except OSError:
        return 1  # then the ctime alone tells what has changed
    return 0


def _are_wanted(bundle: Bundle, setting: str) -> bool:
    if setting == "never" or os.geteuid() == 0 or bundle.is_bare or bundle.config["root"].get("readonly"):
        return False
    mount = mounts.deepest(os.path.realpath(bundle.rootfs), mounts.read())
    return setting == "always" or mount is None or not _may_be_shared(mount.kind)


def _may_be_shared(kind: str) -> bool:
    """Return whether other nodes may see such a file system, too: behind FUSE there can be any."""
    return kind.partition(".")[0] == "fuse" or mounts.is_shared(kind)


class LayerWriter:
    """A process that writes the layer of the checkpoint in `stage`, as soon as all of the container is frozen.

    It works beside the dump. The container's init is `pid`. What its mounts cover was there before it ran, except at
    the mount points `inner`, whose mounts programs have made.
    """

    def __init__(
        self,
        container: Container,
        bundle: Bundle,
        pid: int,
        stage: Stage,
        known: baseline.Baseline,
        inner: Collection[str],
    ) -> None:
        from oci_criu_shim.checkpoints import layer

        covered = [mount.point.lstrip("/") for mount in mounts.read(pid) if mount.point not in inner]
        changes = layer.Changes(bundle.rootfs, known, covered, _applied(container))
        reader, self.frozen = os.pipe()

        def write() -> int:
            os.close(self.frozen)
            _wait(os.path.join(stage.images, criu.FILES), reader)
            try:
                changes.write(os.path.join(stage.path, LAYER))
                stage.write(DELETED, changes.deleted)
            except OSError as error:
                raise ShimError(f"what has changed in {bundle.rootfs} can't be kept: {error.strerror}") from None
            return changes.skipped

        self.child = Child(write)
        os.close(reader)

    def finish(self) -> int:
        """Wait for its end, now that all is frozen for sure; return how many files could not be kept.

        Raise ShimError if it failed.
        """
        try:
            os.write(self.frozen, b"f")
        except BrokenPipeError:
            pass  # it has finished
        found: int = self.child.result()
        return found

    def stop(self) -> None:
        """End it, even if it has not finished."""
        self.child.end()
        os.close(self.frozen)


def _wait(mark: str, reader: int) -> None:
    """Wait until the file `mark` is there, or the pipe `reader` tells so."""
    while not os.path.exists(mark) and not select.select([reader], [], [], PAUSE_SECONDS)[0]:
        pass


def _applied(container: Container) -> tuple[list[str], list[str]]:
    try:
        names, deleted = files.read_json(container.path(record.APPLIED_LAYER))
    except FileNotFoundError:
        return [], []
    return names, deleted


def take(
    container: Container, bundle: Bundle, pid: int, stage: Stage, inner: Collection[str] = ()
) -> LayerWriter | None:
    """Begin with the layer of a task's checkpoint; return None if it is to have none."""
    known = baseline.find(os.path.dirname(stage.path), bundle.rootfs)
    return LayerWriter(container, bundle, pid, stage, known, inner) if known else None
