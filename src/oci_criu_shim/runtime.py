"""The backend that creates containers: the only module that knows its command line."""

from __future__ import annotations

import os

from oci_criu_shim import process
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.bundle import Bundle
    from oci_criu_shim.container import Container
    from oci_criu_shim.log import Log


class Runtime:
    """crun's command line, which runc shares for these verbs."""

    def __init__(self, program: str, log: Log) -> None:
        path = process.find(program)
        if path is None:
            raise ShimError(f"no {program} in {process.PATH}", f"install {program}")
        self.path = path
        self.log = log

    def run(
        self, container: Container, bundle: Bundle, options: list[str], fds: Mapping[int, int]
    ) -> int:
        """Start the container; the pid of the backend, whose exit status is the container's."""
        argv = self._argv(container, "run", "--bundle", bundle.path)
        argv += ["--pid-file", container.path("init.pid"), *options, container.name]
        return process.spawn(argv, os.environ, fds, self.log)

    def delete(self, container: Container) -> None:
        """Make the backend forget the container, ending what is left of it."""
        if os.path.isdir(container.path("backend")):
            argv = self._argv(container, "delete", "--force", container.name)
            process.output(argv, os.environ, self.log)

    def _argv(self, container: Container, *words: str) -> list[str]:
        argv = [self.path, "--root", container.path("backend")]
        if os.geteuid():
            # The container stays in the control group that Slurm made for the task.
            argv += ["--cgroup-manager", "disabled"]
        return [*argv, *words]
