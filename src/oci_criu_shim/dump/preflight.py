"""Refuse, before anything is frozen, a checkpoint that could not be taken, or never restored."""

from __future__ import annotations

import errno
import os
import stat

from oci_criu_shim.container import batch_script
from oci_criu_shim.dump import bundle_faults
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import cgroups, mounts, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.host.external import External
    from oci_criu_shim.host.mounts import Mount

TERMINALS = range(136, 144)  # major numbers of slaves (admin-guide/devices.txt)
APPARMOR = "/sys/kernel/security/apparmor"  # where CRIU looks for it (kerndat_lsm() in criu/lsm.c)
MOUNT_SECURITYFS = "mount -t securityfs securityfs /sys/kernel/security, and remove /run/criu.kdat, where CRIU notes it"


def check_bundle(bundle: Bundle) -> None:
    """Raise ShimError if a container of this bundle could never be checkpointed on this node."""
    bundle_faults.check(bundle)
    if os.geteuid() == 0:
        return
    node = mounts.read()
    for mount in bundle.mounts:
        if mounts.is_bind(mount):
            source = os.path.join(bundle.path, mount.get("source", ""))
            mounts.require_none_below(mount["destination"], source, node)
        elif mount.get("type") == "sysfs" and "network" not in bundle.namespaces:
            # crun can only bind the node's then.
            mounts.require_none_below(mount["destination"], "/sys", node)


def require_no_group(own: bool) -> None:
    """Raise ShimError if the container has a control group of its `own`, and it is an ordinary user's.

    A user's restore can't make that group again, and its limits would be lost.
    """
    if own:
        raise ShimError(
            "the container has a control group of its own, which a user's restore can't make again",
            "leave out --cgroup-manager and --systemd-cgroup: it then stays in its task's group",
        )


def require_no_preserved(pid: int, links: list[str]) -> None:
    """Raise ShimError if a process of the container has one of the `links` open, the descriptors of --preserve-fds.

    Their other ends are outside: a pipe would come back leading nowhere.
    """
    for each in process.tree(pid) if links else ():
        kept = set(links).intersection(_links(each))
        if kept:
            raise ShimError(
                f"process {each} has what it was given by --preserve-fds, which leads out of the container:"
                f" {' '.join(sorted(kept))}",
                "leave out --preserve-fds, or have the program close the descriptors",
            )


def check(pid: int, bundle: Bundle, shell_job: bool = False) -> None:
    """Raise ShimError if the container of init `pid` can't be checkpointed as it is now.

    With `shell_job` it may have the terminal that it was started on.
    """
    bundle_faults.check(bundle)
    _require_running(pid)
    node, inside, processes = mounts.read(), mounts.read(pid), process.tree(pid)
    _require_own_sharing(inside, node)
    _require_no_queues(pid, inside)
    _require_known_profiles(processes)
    external = mounts.external(inside, node)
    if os.geteuid():
        _require_own(processes)
        _require_single_binds(bundle, external, node)
    else:
        _require_limits(processes)
    if not shell_job:
        _require_no_terminal(pid, inside)
    _require_no_files(pid, inside)
    _require_one_at_a_place(inside, external)
    for entry in external:
        if entry["kind"] == "node" and entry["key"] != batch_script.point(bundle):
            bundle.device(entry["key"])


def _require_single_binds(bundle: Bundle, external: list[External], node: Iterable[Mount]) -> None:
    for entry in external:
        if entry["kind"] in ("bind", "sysfs"):
            source = mounts.bind_source(entry["key"], bundle.mounts, bundle.path, bundle.rootfs)
            if entry["kind"] == "sysfs":
                source = mounts.node_source("sysfs", entry["root"], node)
            if source is not None:
                mounts.require_none_below(entry["key"], source, node)


def _require_one_at_a_place(inside: Iterable[Mount], external: list[External]) -> None:
    """CRIU knows an external mount by its mount point, and takes all mounts there for the same one."""
    points = [mount.point for mount in inside]
    for entry in external:
        if points.count(entry["key"]) > 1:
            raise ShimError(
                f"another mount covers the node's mount at {entry['key']}, and a restore can't tell them apart",
                "leave one of the two out of config.json's mounts",
            )


def _require_own_sharing(inside: Iterable[Mount], node: Iterable[Mount]) -> None:
    """Refuse a mount that shares a peer group with the node: it would come back in a group of its own."""
    theirs = {mount.shared for mount in node if mount.shared}
    for mount in inside:
        if mount.shared in theirs:
            raise ShimError(
                f"anything mounted below {mount.point} is seen on the node as well (rshared), which a restore"
                " can't bring back",
                "use rslave or rprivate in the mount's options",
            )


def _require_no_queues(pid: int, inside: Iterable[Mount]) -> None:
    """CRIU 4.2 restores no POSIX message queue (mqueue_dump() in criu/filesystems.c)."""
    for mount in inside:
        if mount.kind == "mqueue" and (names := os.listdir(f"/proc/{pid}/root{mount.point}")):
            raise ShimError(
                f"there are POSIX message queues, which CRIU can't dump: {' '.join(names[:4])}",
                "have the program remove them (mq_unlink) once it is done with them",
            )


def _require_known_profiles(processes: Iterable[int]) -> None:
    """Without AppArmor's directory CRIU leaves out the profiles, and no profile confines a restored process."""
    if os.path.exists(APPARMOR):
        return
    for each in processes:
        profile = _profile(each)
        if profile not in ("", "unconfined"):
            raise ShimError(f"it has the AppArmor profile {profile}, which CRIU can't see here", MOUNT_SECURITYFS)


def _profile(pid: int) -> str:
    """Return the AppArmor profile of a process; an empty string if there is no AppArmor."""
    try:
        return _text(f"/proc/{pid}/attr/apparmor/current").rstrip("\0\n")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return ""  # it is turned off


def _require_no_terminal(pid: int, inside: Iterable[Mount]) -> None:
    """If a terminal is not one of the container's own, a process outside holds its master."""
    own = {mount.device for mount in inside}
    for stream in range(3):
        try:
            found = os.stat(f"/proc/{pid}/fd/{stream}")
        except FileNotFoundError:
            continue
        device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
        if os.major(found.st_rdev) in TERMINALS and stat.S_ISCHR(found.st_mode) and device not in own:
            raise ShimError(
                "it uses the terminal that it was started on, which is not its own",
                "as root, --shell-job leaves it out; a restore with --shell-job uses the terminal of its caller",
            )


def _require_no_files(pid: int, inside: Iterable[Mount]) -> None:
    """Refuse a file to which the shell redirected the streams: it is on none of the container's mounts."""
    own = {mount.id for mount in inside}
    for stream in range(3):
        fields = dict(line.partition(":\t")[::2] for line in _text(f"/proc/{pid}/fdinfo/{stream}").splitlines())
        if fields and fields["mnt_id"] not in own and stat.S_ISREG(os.stat(f"/proc/{pid}/fd/{stream}").st_mode):
            raise ShimError(
                f"it was started on {os.readlink(f'/proc/{pid}/fd/{stream}')}, a file that is on none of its mounts",
                "give it a pipe, or a file in one of its mounts",
            )


def _require_running(pid: int) -> None:
    """CRIU waits for ever for processes that a control group keeps frozen; only root may have CRIU thaw them."""
    if os.geteuid() and cgroups.frozen(pid):
        raise ShimError("the container is paused", "resume it first")


def _links(pid: int) -> list[str]:
    """Return where a process's descriptors lead."""
    found = []
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
            except FileNotFoundError:
                pass  # it was closed
    except OSError:
        if process.start_time(pid) is not None:
            raise
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _require_limits(processes: Iterable[int]) -> None:
    """CRIU asks for each process's limits; for another user's process that takes CAP_SYS_RESOURCE (prlimit(2))."""
    import resource

    for each in processes:
        try:
            resource.prlimit(each, resource.RLIMIT_CPU)
        except ProcessLookupError:
            pass  # it has ended
        except PermissionError:
            raise ShimError(
                f"process {each} runs as another user, whose limits this root may not ask for",
                "give it CAP_SYS_RESOURCE",
            ) from None


def _require_own(processes: Iterable[int]) -> None:
    """Refuse a process with an id of /etc/subuid: its files in /proc can't be read without a DAC override."""
    for pid in processes:
        try:
            ids = process.status(pid)["Uid"]
        except ProcessLookupError:
            continue
        if set(ids) != {str(os.geteuid())}:
            raise ShimError(
                f"process {pid} runs as a user who is not you outside (ids {' '.join(ids)}):"
                " a dump has no right to its memory",
                "run it as user 0, which is you",
            )
