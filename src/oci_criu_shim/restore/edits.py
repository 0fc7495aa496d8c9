"""Change a checkpoint's images for one restore: in copies, which are mounted over them. The checkpoint stays as it is.

(A directory of links to the images would not do: CRIU opens some of them when it is in the container's mount namespace
already.)
"""

from __future__ import annotations

import os

from oci_criu_shim.container import limits
from oci_criu_shim.host import clocks, criu, criu_images, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from oci_criu_shim.checkpoints.manifest import Clock, Needs
    from oci_criu_shim.files import Document
    from oci_criu_shim.host.criu import Message
    from oci_criu_shim.restore.seccomp import Seccomp


class Edits:
    """Changed copies of what is in the directory `images`, in the directory `copies`; their paths are `paths`."""

    def __init__(self, images: str, copies: str) -> None:
        self.images = images
        self.copies = copies
        self.paths: list[str] = []

    def edit(self, name: str, change: Callable[[Document], bool]) -> None:
        """Write a copy of an image as criu_images.load() returns it, if `change` returns that it has changed it."""
        image = criu_images.load(os.path.join(self.images, name))
        if change(image):
            criu_images.dump(self._copy(name), image)

    def edit_files(self, change: Callable[[list[Message]], bool]) -> None:
        """Write a copy of the image of open files, which may be many, if `change` returns that it has changed any."""
        path = os.path.join(self.images, criu.FILES)
        files = list(criu_images.read_entries(path, criu_images.file_type()))
        if change(files):
            criu_images.write_entries(path, self._copy(criu.FILES), files)

    def edit_inventory(self, kinds: Iterable[str]) -> dict[str, dict[str, int]]:
        """Have CRIU take for its own the namespaces of these kinds, which are made before it starts.

        Return the container's ids of namespaces ("own"), and those that CRIU had at the dump ("root").
        """
        own: dict[str, int] = criu_images.load(os.path.join(self.images, "ids-1.img"))["entries"][0]
        before: dict[str, int] = {}

        def change(image: Document) -> bool:
            inventory = image["entries"][0]
            inventory.pop("tcp_close", None)  # CRIU would want all connections closed; those that ended are
            before.update(inventory["root_ids"])
            inventory["root_ids"].update({kind: own[kind] for kind in kinds if kind in own})
            return True

        self.edit(criu.INVENTORY, change)
        return {"own": own, "root": before}

    def edit_clocks(self, noted: Clock | None) -> None:
        """Have the clocks go on from where they were when everything froze.

        If CRIU is privileged, it makes a time namespace of its own, unless the container had one. Its image has the
        clocks of a later moment, when the memory was written (dump_time_ns() in criu/timens.c, 4.2).
        """

        def change(image: Document) -> bool:
            for clock, value in (noted or {}).items():
                found = dict(zip(("tv_sec", "tv_nsec"), divmod(value, clocks.SECOND), strict=True))
                image["entries"][0][clock] = found
            return True

        if noted and os.path.exists(os.path.join(self.images, "timens-0.img")):
            self.edit("timens-0.img", change)

    def edit_mounts(self, unfollowed: Collection[str]) -> None:
        """Have CRIU make no files and directories again that were the sources of binds, and follow no links below the
        mount points `unfollowed`, which it does not note.

        If such a source was replaced on the node, the one that is there now takes its place.
        """

        def change(image: Document) -> bool:
            replaced = [entry for entry in image["entries"] if entry.get("ext_key") and entry.pop("deleted", False)]
            flagged = [entry for entry in image["entries"] if entry.get("mountpoint") in unfollowed]
            for entry in flagged:
                entry["flags"] |= mounts.flags([mounts.UNFOLLOWED])
            return bool(replaced or flagged)

        for name in self._names("mountpoints-"):
            self.edit(name, change)

    def edit_threads(self, needs: Needs | None, seccomp: Seccomp) -> None:
        """Lower hard limits that are not allowed here, and take out the `seccomp` that is set last."""
        lowered = needs if needs is not None and limits.are_lower(needs) else None
        for name in self._names("core-"):
            takes = seccomp.concerns(*criu_images.seccomp(os.path.join(self.images, name)))

            def change(image: Document, name: str = name, takes: bool = takes) -> bool:
                if takes:
                    seccomp.take(name, image)
                return (lowered is not None and limits.lower(lowered, image)) or takes

            if takes or lowered is not None:
                self.edit(name, change)

    def _names(self, beginning: str) -> list[str]:
        found = (name for name in os.listdir(self.images) if name.startswith(beginning))
        return [name for name in found if os.path.isfile(os.path.join(self.images, name))]

    def _copy(self, name: str) -> str:
        self.paths.append(os.path.join(self.copies, name))
        return self.paths[-1]
