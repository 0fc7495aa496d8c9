"""Print messages, a line each, to standard error and to the file of --log."""

from __future__ import annotations

import os
import sys
import time

NAME = "oci-criu-shim"
PATIENCE_MS = 1000  # how long to wait for a reader of standard error: a preemption can't wait longer


class Log:
    """Prints events for the user; `--log` gets errors in runc's text or json form as well."""

    def __init__(self, path: str | None = None, form: str = "text", debug: bool = False) -> None:
        self.path = path
        self.form = form
        self.verbose = debug

    def event(self, text: str, kind: str = "", **facts: object) -> None:
        """Print a line for the user, in the job's output; with a `kind`, note() it, too."""
        self._print(text)
        self._record("info", text)
        if kind:
            self.note(kind, **facts)

    def note(self, kind: str, **facts: object) -> None:
        """Note an event in the job's history, if it has one (task/history.py)."""

    def keep(self, name: str, data: bytes) -> str:
        """Keep `data` with the history, in a file whose name ends in `name`; return its path, empty without history."""
        return ""

    def debug(self, text: str) -> None:
        """Print a line if --debug was given."""
        if self.verbose:
            self._print(text)
            self._record("debug", text)

    def error(self, text: str, kind: str = "", **facts: object) -> None:
        """Print a line that says what failed; callers of an OCI runtime read it from the log file."""
        self._print(f"error: {text}")
        self._record("error", text)
        if kind:
            self.note(kind, **facts)

    def _print(self, text: str) -> None:
        import select

        poll = select.poll()
        try:
            poll.register(sys.stderr.fileno(), select.POLLOUT)
            if poll.poll(PATIENCE_MS):
                os.write(sys.stderr.fileno(), f"{NAME}: {text}\n".encode(errors="replace"))
        except OSError:
            pass  # standard error is gone; the log file may still be there

    def _record(self, level: str, text: str) -> None:
        if not self.path:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.form == "json":
            import json

            line = json.dumps({"level": level, "msg": text, "time": stamp})
        else:
            line = f"{stamp}: {text}"
        try:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError:
            pass  # the disk is full, say; the log must not make anything else fail
