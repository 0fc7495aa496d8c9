"""Decide whether a checkpoint of a container is an increment: it has only what has changed since the one before.

The kernel must tell of these changes. A chain of increments begins with a whole checkpoint of a container that runs on.
Anything but one more increment ends it, and the next checkpoint is whole: the kernel's marks are gone once a dump was
tried.
"""

from __future__ import annotations

from oci_criu_shim import config, files
from oci_criu_shim.checkpoints import committed, increments
from oci_criu_shim.container.record import CHAIN, TRACKED
from oci_criu_shim.dump import moved_pages
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host import criu_images, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.stage import Stage
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.dump.moved_pages import Sums

    class Last(TypedDict):
        """What chain.json says of the newest checkpoint, if an increment may follow it."""

        path: str
        samples: Sums
        seal: str


MERGING = "/sys/kernel/mm/ksm/run"  # pages that are merged lose their marks (replace_page() in mm/ksm.c)


def tracked(container: Container) -> tuple[bool, bool]:
    """Return whether the kernel and the site allow increments, and whether that was found out only now."""
    path = container.path(TRACKED)
    try:
        return bool(files.read_number(path)), False
    except FileNotFoundError:
        found = config.load().increments and linux.tracks_writes()
        files.write_atomically(path, b"1" if found else b"0")
        return found, True


class Link:
    """The next checkpoint in the chain of `container`; `goes_on` if another one may follow it."""

    def __init__(self, container: Container, goes_on: bool) -> None:
        self.file = container.path(CHAIN)
        self.goes_on = goes_on
        self.before: Sums | None = None  # samples of the parent's memory
        self.parent_seal = ""
        self.samples: Sums | None = None
        self.seal = ""  # by which the worker knows its images again (privileged/seal.py)

    @property
    def is_increment(self) -> bool:
        """Whether it has a parent; known after begin()."""
        return self.before is not None

    def begin(self, stage: Stage) -> dict[str, Any]:
        """Give `stage` a parent if it can have one; return the options for the worker's request."""
        last: Last | None
        try:
            last = files.read_json(self.file)
        except (OSError, ValueError):
            last = None
        files.remove_if_there(self.file)
        if last and not _merging():
            self._follow(last, stage)
        if self.is_increment or self.goes_on:
            criu_images.prepare_pagemap()  # all is frozen when it is needed
            sealed = {"seal": self.parent_seal} if self.parent_seal else {}
            return {"track_mem": True, "incremental": self.is_increment, **sealed}
        return {}

    def _follow(self, last: Last, stage: Stage) -> None:
        try:
            parent = committed.read(last["path"])
            if increments.may_follow(parent):
                increments.link(parent, stage)
                self.before, self.parent_seal = last["samples"], last.get("seal", "")
        except (ShimError, OSError):
            pass  # it is damaged or gone, or there are no hard links

    def check(self, init: int, images: str, seal: str) -> None:
        """Check the dump, with the worker's `seal`, while all is frozen. Raise ShimError if the increment is wrong."""
        self.seal = seal
        if not (self.is_increment or self.goes_on):
            return
        try:
            self.samples = moved_pages.take(init, images, self.before)
        except OSError as error:
            if self.is_increment:
                raise ShimError(f"its memory can't be compared: {line_of(error)}") from None

    def done(self, taken: Checkpoint) -> None:
        """Note that the checkpoint was `taken`, for the next one to follow it."""
        if self.goes_on and self.samples is not None:
            last: Last = {"path": taken.path, "samples": self.samples, "seal": self.seal}
            try:
                files.write_json(self.file, last)
            except OSError:
                pass  # the next one will be whole


def _merging() -> bool:
    try:
        return files.read_number(MERGING) == 1
    except (OSError, ValueError):
        return False
