"""Print tables, JSON, and how far long work has come."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from oci_criu_shim import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Seconds until work is long, and between looks at it, on a terminal; and between lines elsewhere.
PATIENCE, PERIOD, LINES = 1.0, 0.2, 10.0


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
    """How far long work has come, on standard error while the block lasts: on a terminal one line, which goes when the
    work is done; else a line each LINES seconds.

    `total` is how much there is to do, 0 if that isn't known, and `done` is asked how much of it is done; else tell()
    says so. `shown` words such an amount.
    """

    def __init__(
        self, what: str, total: int = 0, done: Callable[[], int] | None = None, shown: Callable[[int], str] = units.size
    ) -> None:
        self.what = what
        self.total = total
        self.told = 0
        self.done = done or (lambda: self.told)
        self.shown = shown
        self.terminal = os.isatty(2)
        self.begun = time.monotonic()
        self.over = threading.Event()
        self.printed = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ProgressLine:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if self.terminal and self.printed:
            self._print("\r\x1b[K")

    def tell(self, done: int) -> None:
        """Note that so much is done."""
        self.told = done

    def _run(self) -> None:
        pause = PATIENCE if self.terminal else LINES
        while not self.over.wait(pause):
            line = f"{self.what}: {self.state(time.monotonic() - self.begun)}"
            self._print(f"\r{line}\x1b[K" if self.terminal else f"{line}\n")
            pause = PERIOD if self.terminal else LINES

    def state(self, seconds: float) -> str:
        """Return how much is done after so many seconds, and how long the rest takes if it goes on like that."""
        done = self.done()
        if not self.total:
            return f"{self.shown(done)} in {units.time(seconds)}" if done else units.time(seconds)
        left = f", {units.time(seconds * (self.total - done) / done + 1)} left" if 0 < done < self.total else ""
        return f"{self.shown(done)} of {self.shown(self.total)}, {min(100 * done // self.total, 100)} %{left}"

    def _print(self, text: str) -> None:
        self.printed = True
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            pass  # nobody looks any more
