"""Tell a container's programs of its checkpoints, by a command that the job names (--checkpoint-hook).

It runs inside: before a dump, after a dump that did not end the container, and after a restore. None of its processes
is left when it is over. Its failure is said, and changes nothing else.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from oci_criu_shim.container import backends, bundle
from oci_criu_shim.container.hook_run import HookRun
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.container.backends import Backend
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.log import Log

BEFORE, AFTER, RESTORED = "pre-dump", "post-dump", "post-restore"
# What the command finds in its environment: one of these moments; why there is a checkpoint; what became of the dump.
MOMENT, REASON, RESULT = "OCI_CRIU_SHIM_HOOK", "OCI_CRIU_SHIM_REASON", "OCI_CRIU_SHIM_RESULT"
RUN = "OCI_CRIU_SHIM_HOOK_RUN"  # tells the processes of one run from all others
SHARE = 3  # of the time that is left to a job, a run takes one part in so many at most


def of(container: Container, pid: int, backend: Backend, log: Log) -> CheckpointHook:
    """Return the hook of a container, whose init is `pid`, that a verb is about to checkpoint, or has restored."""
    asked = bundle.checkpoint_hook(container.load().get("config", {}))
    seconds = 0
    if asked:
        from oci_criu_shim import config

        seconds = config.hook_limit()
    return CheckpointHook(container, pid, backend, asked, seconds, container.name, log)


def tell_of_restore(container: Container, pid: int, backend: Backend, log: Log, reason: str) -> None:
    """Run the hook of a container that a verb has restored from a checkpoint taken for `reason`."""
    try:
        of(container, pid, backend, log).run(RESTORED, reason)
    except ShimError as error:  # the settings can't be read
        log.error(error.line())


class CheckpointHook:
    """The hook `command`, an empty one if there is none, of a container, which is called `what` in messages.

    The container's init is `pid`. A run may take `seconds`, and no more than its share of what is left until `end`,
    which is in seconds since the epoch; 0 if that is not known.
    """

    def __init__(
        self,
        container: Container,
        pid: int,
        backend: Backend,
        command: str,
        seconds: float,
        what: str,
        log: Log,
        end: float = 0,
    ) -> None:
        self.container = container
        self.pid = pid
        self.began = process.start_time(pid)
        self.backend = backend
        self.command = command
        self.seconds = seconds
        self.what = what
        self.log = log
        self.end = end

    @contextmanager
    def around(self, reason: str, ends: bool) -> Iterator[None]:
        """Run it before the dump in the block, and after it unless that `ends` the container."""
        self.run(BEFORE, reason)
        result = "failed"
        try:
            yield
            result = "taken"
        finally:
            if result == "failed" or not ends:
                self.run(AFTER, reason, result)

    def run(self, moment: str, reason: str, result: str = "") -> None:
        """Run it at one of the moments; say if it fails, unless the container has ended."""
        if not self.command or self._has_ended():
            return
        try:
            failed = self._run(moment, {MOMENT: moment, REASON: reason, **({RESULT: result} if result else {})})
        except (ShimError, OSError) as error:
            failed = line_of(error)
        if failed and not self._has_ended():
            said = f"the checkpoint hook of {self.what} ({moment}, {reason}) failed: {failed}"
            self.log.error(said, "hook-failed", reason=said)

    def _has_ended(self) -> bool:
        return self.began is None or process.start_time(self.pid) != self.began

    def _run(self, moment: str, variables: dict[str, str]) -> str:
        """Run it to its end; return how it failed, in words, and nothing if it did not."""
        token = f"{os.getpid()}.{time.monotonic_ns()}"
        given = [f"--env={name}={value}" for name, value in {**variables, RUN: token}.items()]
        # crun 1.21 has `exec` begin in /.
        cwd = self.container.load()["config"].get("process", {}).get("cwd", "/")
        words = [f"--cwd={cwd}", *given, *backends.environment(given, self.container), self.container.name]
        seconds = self._limit()
        pid = self.backend.spawn("exec", *words, "/bin/sh", "-c", self.command, fds={1: 2, 2: 2})
        run = HookRun(pid, self.pid, f"{RUN}={token}".encode())
        in_time = process.ends_within(pid, seconds)
        left = run.end()
        status = process.wait(pid)
        if left and in_time:
            self.log.event(f"what the checkpoint hook of {self.what} ({moment}) left running was ended: {left}")
        if not in_time:
            return f"it took longer than {seconds:.3g} s, and was ended"
        return f"exit status {process.exit_status(status)}" if status else ""

    def _limit(self) -> float:
        return min(self.seconds, max(self.end - time.time(), 0) / SHARE) if self.end else self.seconds
