"""Print tables, JSON, and how far long work has come."""

from __future__ import annotations

import json
import os
import sys
import time

from oci_criu_shim import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE = 0.5  # seconds until work is long
PERIOD = 0.1


def print_json(document: object) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2))


def print_table(rows: Sequence[Sequence[object]], indent: str = "") -> None:
    """Print columns as wide as they must be."""
    texts = [[str(field) for field in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print(indent + "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


class ProgressLine:
    """One line on standard error, if that is a terminal; it goes when the work is done.

    `total` is how many bytes there are to do, 0 if that isn't known.
    """

    def __init__(self, what: str, total: int = 0) -> None:
        self.what = what
        self.total = total
        self.next = time.monotonic() + PATIENCE
        self.shown = False
        self.terminal = os.isatty(2)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self._print("")

    def tell(self, done: int) -> None:
        """Show that `done` bytes are done."""
        if self.terminal and time.monotonic() >= self.next:
            self.next, self.shown = time.monotonic() + PERIOD, True
            whole = f", {100 * done // self.total} %" if self.total else ""
            self._print(f"{self.what}: {units.size(done)}{whole}")

    def _print(self, text: str) -> None:
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()
