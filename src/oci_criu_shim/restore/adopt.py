"""A container that runs again from a checkpoint, and is a backend's from then on, as if that had created it."""

from __future__ import annotations

import os
import signal

from oci_criu_shim.container import backends
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.errors import ShimError
from oci_criu_shim.restore import restore
from oci_criu_shim.restore.plan import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.stdio import Stdio
    from oci_criu_shim.log import Log
    from oci_criu_shim.restore.plan import Asked
    from oci_criu_shim.supervisor.detached import Streams
    from oci_criu_shim.supervisor.lifecycle import Plan


class Restored:
    """The container of `plan`, whose id is reserved, from `checkpoint`; `backend` will look after it."""

    def __init__(self, plan: Plan, checkpoint: Checkpoint, log: Log) -> None:
        self.container = plan.container
        self.bundle = plan.bundle
        self.checkpoint = checkpoint
        self.log = log
        self.backend = plan.backend
        if self.backend.dialect != backends.DEFAULT:  # adopt() knows the files of crun's
            self.backend = Backend(backends.DEFAULT, plan.container.root, plan.backend.globals, log)
        self.group = cgroup(self.container, self.bundle, checkpoint)

    def start(self, streams: Stdio | Streams, asked: Asked | None = None, cut: str | None = None) -> int:
        """Have it run: the pid of its init, a child of ours; `cut` as restore.start() has it.

        Where that fails nothing of it runs, and nothing is left but its directory. ShimError and Misfit say why.
        """
        try:
            pid = restore.start(self.container, self.bundle, self.checkpoint, streams, self.log, asked, cut)
        except (ShimError, OSError):
            restore.undo(self.container, self.group)
            raise
        try:
            seccomp = restore.seccomp(self.bundle, self.checkpoint)
            backends.adopt(self.backend, self.container, self.bundle, pid, self.group, seccomp)
            if self.group:
                backends.limit(self.backend, self.container, self.bundle)
        except (ShimError, OSError):
            self.end(pid)
            raise
        return pid

    def end(self, pid: int) -> None:
        """Undo start(): nobody would know of it."""
        os.kill(pid, signal.SIGKILL)
        if self.backend.knows(self.container):
            self.backend.output("delete", "--force", self.container.name)
        restore.undo(self.container, self.group)
