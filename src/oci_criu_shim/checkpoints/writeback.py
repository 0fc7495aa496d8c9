"""Start writing images to disk while they still grow, so that the commit has little to wait for.

Writing is only begun here, never waited for: flushing a file that grows holds up its writer. If something can't be
written, the commit's own fsync(2) reports it.
"""

from __future__ import annotations

import os

from oci_criu_shim.host import linux

PAUSE_SECONDS = 0.005


class Writeback:
    """A thread that, until stop(), has what grows in `directory` written to disk."""

    def __init__(self, directory: str) -> None:
        import threading  # it takes long to import, and a start needs none

        self.directory = directory
        self.begun: dict[str, int] = {}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread."""
        self.stopped.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.stopped.wait(PAUSE_SECONDS):
            try:
                for entry in os.scandir(self.directory):
                    self._begin(entry)
            except OSError:
                continue  # CRIU removes files that it made for itself; other errors come up at the commit

    def _begin(self, entry: os.DirEntry[str]) -> None:
        begun, size = self.begun.get(entry.name, 0), entry.stat().st_size
        if size <= begun or entry.is_dir():
            return
        descriptor = os.open(entry.path, os.O_RDONLY)
        try:
            linux.begin_writing(descriptor, begun, size - begun)
        finally:
            os.close(descriptor)
        self.begun[entry.name] = size
