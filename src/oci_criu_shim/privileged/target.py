"""Check that a container's init may be dumped: it must belong to the user, and to the job."""

from __future__ import annotations

import fcntl
import os
import select

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups

NS_GET_OWNER_UID = 0xB704  # linux/nsfs.h


class Target:
    """The container's init, named by a pidfd, so that its number can't come to mean another process.

    `job` is a job's number and control group, "CONTROLLERS:PATH" as in /proc/PID/cgroup. ShimError if the process may
    not be dumped, or has ended.
    """

    def __init__(self, pidfd: int, job: tuple[int, str] | None) -> None:
        self.pidfd = pidfd
        self.pid = _pid_of(pidfd)
        uid = os.geteuid()
        if uid:
            self._check_owner(uid)
        if job is not None:
            self._check_job(*job)
        self.require_alive()

    def require_alive(self) -> None:
        """Raise ShimError once the init has ended."""
        if select.select([self.pidfd], [], [], 0)[0]:
            raise ShimError("the container has ended")

    def namespace(self, name: str) -> int:
        """Return the inode number of one of the init's namespaces."""
        return os.stat(f"/proc/{self.pid}/ns/{name}").st_ino

    def shares(self, name: str) -> bool:
        """Return whether the init's namespace of that name is the node's."""
        return self.namespace(name) == os.stat(f"/proc/self/ns/{name}").st_ino

    def _check_owner(self, uid: int) -> None:
        """Require a user namespace that the user made: only there does everything belong to them."""
        if self.shares("user"):
            raise ShimError("the process is not in a user namespace of its own")
        descriptor = os.open(f"/proc/{self.pid}/ns/user", os.O_RDONLY)
        try:
            owner = int.from_bytes(fcntl.ioctl(descriptor, NS_GET_OWNER_UID, bytes(4)), "little")
        finally:
            os.close(descriptor)
        if owner != uid:
            raise ShimError("the process's user namespace belongs to somebody else")

    def _check_job(self, job: int, group: str) -> None:
        """Require the job's control group, or one below it."""
        controllers, _, path = group.partition(":")
        if not f"{cgroups.of(self.pid).get(controllers, '')}/".startswith(f"{path}/"):
            raise ShimError(f"the process is not one of job {job}")


def _pid_of(pidfd: int) -> int:
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        pid = int(fields["Pid"])
    except (OSError, KeyError, ValueError):
        raise ShimError("no pidfd was passed") from None
    if pid <= 0:
        raise ShimError("the container has ended")
    return pid
