"""Open descriptors that can't be dumped, or would lead nowhere after a restore."""

from __future__ import annotations

import os
import stat

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.survey import Descriptor, Survey

TERMINALS = range(136, 144)  # major numbers of slaves (admin-guide/devices.txt)
RING = "anon_inode:[io_uring]"


def _streams(survey: Survey) -> Iterator[tuple[Descriptor, os.stat_result]]:
    for descriptor in survey.init.descriptors:
        if descriptor.number <= 2 and descriptor.stat:
            yield descriptor, descriptor.stat


def terminal(survey: Survey) -> Iterator[ShimError]:
    """If a terminal is not one of the container's own, a process outside holds its master."""
    own = {mount.device for mount in survey.mounts}
    for _, found in () if survey.shell_job else _streams(survey):
        device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
        if stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in TERMINALS and device not in own:
            yield ShimError(
                "it uses the terminal that it was started on, which is not its own",
                "as root, --shell-job leaves it out; a restore with --shell-job uses the terminal of its caller",
            )


def redirected(survey: Survey) -> Iterator[ShimError]:
    """Yield a file to which the shell redirected the streams: it is on none of the container's mounts."""
    own = {mount.id for mount in survey.mounts}
    for descriptor, found in _streams(survey):
        if stat.S_ISREG(found.st_mode) and descriptor.info.get("mnt_id") not in {*own, None}:
            yield ShimError(
                f"it was started on {descriptor.link}, a file that is on none of its mounts",
                "give it a pipe, or a file in one of its mounts",
            )


def preserved(survey: Survey) -> Iterator[ShimError]:
    """Yield what processes still have of --preserve-fds. The other ends are outside: a pipe would lead nowhere."""
    for each in survey.processes if survey.preserved else ():
        kept = {descriptor.link for descriptor in each.descriptors}.intersection(survey.preserved)
        if kept:
            yield ShimError(
                f"process {each.pid} has what it was given by --preserve-fds, which leads out of the container:"
                f" {' '.join(sorted(kept))}",
                "leave out --preserve-fds, or have the program close the descriptors",
            )


def rings(survey: Survey) -> Iterator[ShimError]:
    """CRIU dumps no io_uring. Jobs find none, unless the site or the backend leaves it to them (Plan.hide_io_uring)."""
    for each in survey.processes:
        if any(descriptor.link == RING for descriptor in each.descriptors):
            yield ShimError(
                f"process {each.pid} ({' '.join(each.status.get('Name', []))}) has an io_uring, which CRIU can't dump",
                "with crun and hide-io-uring in config.toml, a job's programs do without; outside of jobs, have"
                " io_uring_setup fail with ENOSYS by linux.seccomp of config.json",
            )


def watching(survey: Survey) -> Iterator[ShimError]:
    """Yield what a user's processes watch and CRIU can't find again: it has no right to open files by their handles."""
    watched: dict[watches.Watched, int] = {}
    for each in survey.processes if survey.is_users else ():
        for descriptor in each.descriptors:
            if descriptor.link in watches.LINKS:
                watched |= dict.fromkeys(watches.marks(descriptor.info_lines), each.pid)
    found = watches.find(survey.pid, watched)
    for (device, inode), pid in watched.items():
        if (device, inode) not in found:
            at = [m.point for m in survey.mounts if watches.number(m) == device]
            where = f", of the file system at {at[0]}" if at else ""
            yield ShimError(
                f"process {pid} watches a file (inotify) of which no path is found: inode {inode}{where}",
                "have the program end its watch if the file was removed, or watch it near a mount point",
            )
