"""Which checkpoints of a container have only what has changed since the one before, where the kernel tells what has.

The chain begins with a whole one of a container that runs on. Whatever else happens than one more increment, the next
checkpoint is whole again: the kernel's marks are gone once a dump was tried.
"""

from __future__ import annotations

from oci_criu_shim import config, files
from oci_criu_shim.checkpoints import committed, increments
from oci_criu_shim.container.record import CHAIN, TRACKED
from oci_criu_shim.dump import moved_pages
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.checkpoints.stage import Stage
    from oci_criu_shim.container.record import Container

MERGING = "/sys/kernel/mm/ksm/run"  # pages that are merged lose their marks (replace_page() in mm/ksm.c)


def tracked(container: Container) -> tuple[bool, bool]:
    """Whether increments can be had, by the kernel and by the site; whether that was asked for the first time."""
    path = container.path(TRACKED)
    try:
        return bool(files.read_number(path)), False
    except FileNotFoundError:
        found = config.load().increments and linux.tracks_writes()
        files.write_atomically(path, b"1" if found else b"0")
        return found, True


class Link:
    """The next checkpoint's place in it; `goes_on` has another one follow."""

    def __init__(self, container: Container, goes_on: bool) -> None:
        self.file = container.path(CHAIN)
        self.goes_on = goes_on
        self.before: dict[str, dict[str, int]] | None = None  # samples of the parent's memory
        self.samples: dict[str, dict[str, int]] | None = None
        self.seal = ""  # by which the worker knows its images again (privileged/seal.py)

    @property
    def is_increment(self) -> bool:
        """Whether it has a parent, once begun."""
        return self.before is not None

    def begin(self, stage: Stage) -> dict[str, Any]:
        """Give `stage` its parent, where it can have one; the options of the worker's request."""
        try:
            last = files.read_json(self.file)
        except (OSError, ValueError):
            last = None
        files.remove_if_there(self.file)
        if last and not _merging():
            self._follow(last, stage)
        if self.is_increment or self.goes_on:
            criu.prepare_pagemap()  # all is frozen when it is needed
            sealed = {"seal": last["seal"]} if self.is_increment and last.get("seal") else {}
            return {"track_mem": True, "incremental": self.is_increment, **sealed}
        return {}

    def _follow(self, last: dict[str, Any], stage: Stage) -> None:
        try:
            parent = committed.read(last["path"])
            if increments.may_follow(parent):
                increments.link(parent, stage)
                self.before = last["samples"]
        except (ShimError, OSError):
            pass  # it is damaged or gone, or there are no hard links

    def check(self, init: int, images: str, seal: str) -> None:
        """All is frozen and dumped, and has the worker's `seal`: ShimError where the increment would be wrong."""
        self.seal = seal
        if not (self.is_increment or self.goes_on):
            return
        try:
            self.samples = moved_pages.take(init, images, self.before)
        except OSError as error:
            if self.is_increment:
                raise ShimError(f"its memory can't be compared: {error}") from None

    def done(self, taken: Checkpoint) -> None:
        """It is a checkpoint, and the container runs on."""
        if self.goes_on and self.samples is not None:
            try:
                files.write_json(self.file, {"path": taken.path, "samples": self.samples, "seal": self.seal})
            except OSError:
                pass  # the next one has all of the memory


def _merging() -> bool:
    try:
        return files.read_number(MERGING) == 1
    except (OSError, ValueError):
        return False
