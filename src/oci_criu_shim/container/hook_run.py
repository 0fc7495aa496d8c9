"""Find and end all processes of one run of a hook in a container, by a mark in their environment."""

from __future__ import annotations

import os
import time

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import pidns, process
from oci_criu_shim.host.quick import signal

END_SECONDS = 2.0  # for what was killed to be gone
EXEC_SECONDS = 0.5  # for a process to begin a program
PAUSE = 0.005


class HookRun:
    """The processes of one run: the backend's `pid` and its own, and those in the container of `init` with `mark`."""

    def __init__(self, pid: int, init: int, mark: bytes) -> None:
        self.pid = pid
        self.begun = process.identity(pid)[1]
        self.init = init
        self.mark = mark

    def end(self) -> str:
        """Kill what is left of it; return what that was, in words. Raise ShimError if it can't be ended."""
        found: dict[int, str] = {}
        limit = time.monotonic() + END_SECONDS
        while left := self._left():
            if time.monotonic() > limit:
                raise ShimError(f"what it runs can't be ended: {', '.join(map(process.command, left))}")
            for each in left:
                found.setdefault(each, process.command(each))
                _kill(each)
            time.sleep(PAUSE)
        return ", ".join(words for each, words in found.items() if each != self.pid)

    def _left(self) -> list[int]:
        """Return those that have not ended. One that is about to execute another program shows no environment."""
        limit = time.monotonic() + EXEC_SECONDS
        while True:
            inside = {each: _environment(each) for each in self._younger()}
            ours = {*process.tree(self.pid), *(each for each, words in inside.items() if self.mark in words)}
            left = [each for each in ours if process.start_time(each) is not None]
            if left or all(inside.values()) or time.monotonic() > limit:
                return left
            time.sleep(PAUSE)

    def _younger(self) -> list[int]:
        """Return the container's processes that have begun after it."""
        if process.start_time(self.init) is None:
            return []
        begun = {each: process.start_time(each) for each in pidns.members(self.init)}
        return [each for each, when in begun.items() if when is not None and when >= self.begun]


def _environment(pid: int) -> list[bytes]:
    """Return a process's variables; something else if it has ended, or is nobody's to look into."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            data = stream.read()
    except OSError:
        return [b"?"]
    return data.split(b"\0") if data else []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended
