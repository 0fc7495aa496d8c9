"""Flushing images to disk while they are still being written, so that the commit has little left to flush."""

from __future__ import annotations

import os
import threading

PAUSE_SECONDS = 0.02


class Writeback:
    """From its making on, a thread flushes what grows in `directory`, until stop() or finish()."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.flushed: dict[str, int] = {}
        self.failure: OSError | None = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread; what it was flushing is flushed first."""
        self.stopped.set()
        self.thread.join()

    def finish(self) -> None:
        """End the thread; OSError where something could not be written.

        Linux reports a failed write to one fsync(2) of a file: the next one, by the commit, would find nothing wrong.
        """
        self.stop()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        while not self.stopped.wait(PAUSE_SECONDS):
            try:
                for name in os.listdir(self.directory):
                    self._flush(name)
            except FileNotFoundError:
                continue  # CRIU removes what it made for itself
            except OSError as error:
                self.failure = error
                return

    def _flush(self, name: str) -> None:
        descriptor = os.open(os.path.join(self.directory, name), os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size > self.flushed.get(name, 0):
                os.fdatasync(descriptor)
                self.flushed[name] = size
        finally:
            os.close(descriptor)
