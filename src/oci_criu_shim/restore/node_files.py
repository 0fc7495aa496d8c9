"""Files of the node's that a container has open or watches: CRIU wants them as they were."""

from __future__ import annotations

import os
import stat

from oci_criu_shim.host import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oci_criu_shim.files import Document
    from oci_criu_shim.host.criu import Message

BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


class NodeFiles:
    """The files below the mount points of a container that `bases` has a path on the node for.

    What comes back with a layer of the root file system is not there yet, and is left alone.
    """

    def __init__(self, bases: Mapping[str, str], mounted: list[Document], has_layer: bool) -> None:
        self.bases = {point: base for point, base in bases.items() if point != "/" or not has_layer}
        self.points = {entry["mnt_id"]: entry["mountpoint"] for entry in mounted}

    def take_modes(self, files: list[Message]) -> bool:
        """Have CRIU find the set-id and sticky bits of open files that have changed since, which it compares.

        Return whether there were any.
        """
        changed = False
        for file in (entry.reg for entry in files if entry.HasField("reg") and entry.reg.HasField("mode")):
            mode = _mode(self._path(self.points.get(file.mnt_id, ""), file.name))
            if stat.S_IFMT(mode) == stat.S_IFMT(file.mode) and (mode ^ file.mode) & BITS:
                file.mode = mode
                changed = True
        return changed

    def move_watches(self, files: list[Message], place: str) -> list[str]:
        """Have each watch of something that is missing here be one of the directory `place` with its number appended.

        Return the paths of what is missing, of each watch in turn.
        """
        missing: list[str] = []
        for handle in _watched(files):
            if self._is_missing(handle.path):
                handle.path, path = f"{place}{len(missing)}", handle.path
                missing.append(path)
        return missing

    def _is_missing(self, path: str) -> bool:
        point = max((point for point in self.points.values() if mounts.is_below(path, point)), key=len, default="")
        found = self._path(point, path)
        return bool(found and not os.access(found, os.R_OK))  # as inotify_add_watch(2) wants it

    def _path(self, point: str, path: str) -> str:
        """Return where the container's `path`, which is on the mount at `point`, is on the node; empty if it is not."""
        if point not in self.bases:
            return ""
        return os.path.join(self.bases[point], path.removeprefix(point).lstrip("/")).rstrip("/") or "/"


def _watched(files: list[Message]) -> Iterator[Message]:
    """Yield what each watch of inotify and fanotify is of: an fh_entry (CRIU's images/fh.proto)."""
    for entry in files:
        if entry.HasField("ify"):
            yield from (watch.f_handle for watch in entry.ify.wd)
        elif entry.HasField("ffy"):
            yield from (mark.ie.f_handle for mark in entry.ffy.mark if mark.HasField("ie"))


def _mode(path: str) -> int:
    """Return the mode of a file, which need not be there: CRIU will say so; 0 then."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0
