"""Report a dump to the helper, for the node's counters: `struct report` of spank/protocol.h, at its begin and its end.

A report consists of numbers only, and goes to a descriptor that nobody else has: CRIU does not inherit it, and the user
lacks the worker's capabilities, and so may not trace the worker while it stays out of their namespaces.
"""

from __future__ import annotations

import os
import sys
import time

from oci_criu_shim.host import linux

DESCRIPTOR = 4
VERSION = 1
# `enum report_outcome`. After BEGUN, how far a dump has come is the cause of its failure.
BEGUN, DONE, SETUP, REFUSED, CRIU, UNCOMMITTED = range(6)


class Report:
    """The reports of one dump, if they are `wanted`.

    None is written before a dump is asked for: the user connects early.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.reached = SETUP
        self.bytes = 0
        self.begun: int | None = None
        if wanted:
            os.set_inheritable(DESCRIPTOR, False)

    def begin(self) -> None:
        """Report that a dump is asked for."""
        self.begun = time.monotonic_ns()
        self._write(BEGUN, 0)

    def dumped(self, images: int) -> None:
        """Note that all images are in the directory `images`."""
        self.reached = UNCOMMITTED
        if self.wanted:
            try:
                self.bytes = sum(linux.sizes(images).values())
            except OSError:
                pass  # the user can change them, and counting must not make a dump fail

    def end(self, done: bool) -> None:
        """Report the end of the dump, if one was asked for."""
        if self.begun is not None:
            self._write(DONE if done else self.reached, time.monotonic_ns() - self.begun)

    def _write(self, outcome: int, nanoseconds: int) -> None:
        if self.wanted:
            parts = ((VERSION, 4), (outcome, 4), (self.bytes, 8), (nanoseconds, 8))
            try:
                os.write(DESCRIPTOR, b"".join(value.to_bytes(size, sys.byteorder) for value, size in parts))
            except OSError:
                pass  # the helper is gone
