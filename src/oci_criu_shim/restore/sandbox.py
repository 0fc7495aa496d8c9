"""Build the sandbox that CRIU starts in: namespaces, names, clocks and mounts, made without privilege.

CRIU could only make them with privilege, or does not restore them at all: the sysctls of a network namespace that it is
told is external, the domain name, the personality, and the priority of input and output.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat

from oci_criu_shim.container import batch_script
from oci_criu_shim.errors import Misfit, ShimError, line_of
from oci_criu_shim.files import LIBDIR
from oci_criu_shim.host import cgroups, clocks, criu, ids, linux, mounts, netlock, process, userns
from oci_criu_shim.host.progress import Progress
from oci_criu_shim.restore import bare, ipc, seccomp
from oci_criu_shim.restore.plan import CONFIGURATION, STREAMS, UNWATCHED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from oci_criu_shim.container.stdio import Stdio
    from oci_criu_shim.files import Document
    from oci_criu_shim.host.ids import IdMap
    from oci_criu_shim.restore.plan import RestorePlan
    from oci_criu_shim.restore.streams import CallersStreams

STATISTICS = "stats-restore"  # CRIU's own name
LIBRARY = f"{LIBDIR}/criu_restore.so"
# For tar, with which CRIU fills a tmpfs: what it does of itself if it is user 0.
TAR_OPTIONS = "--preserve-permissions --same-owner"
CONNECTION = 3  # the descriptor by which CRIU is spoken to; those of the three pipes follow
TEMPORARY = "/tmp"
BUILD_SECONDS = 300.0  # an answer of the node's file systems takes no longer, unless they hang
LONGEST = 4000  # bytes of the builder's answer: a pipe takes one page of them in one write


def start(plan: RestorePlan, stdio: Stdio | CallersStreams) -> criu.Swrk:
    """Start `criu swrk` in a new sandbox, as a child of ours. Raise Misfit if the sandbox can't be built here."""
    if plan.closed.changes and not os.path.exists(LIBRARY):
        missing = f"there is no {LIBRARY}, without which TCP connections would seem to have come to an orderly end"
        raise Misfit(missing, "install oci-criu-shim again")
    if not plan.unprivileged:
        criu.note_features(plan.program)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    fds = {CONNECTION: theirs.fileno(), 2: log, **{STREAMS + stream: end for stream, end in stdio.inside.items()}}
    if (shared := plan.seccomp.share()) is not None:
        fds[seccomp.FILE] = shared
    if plan.shell_job:
        fds[0] = 0  # the terminal that is to be the container's
    ready, go, said = os.pipe(), os.pipe(), os.pipe()

    def build() -> int:
        os.close(ours.fileno())  # or CRIU would never see us go
        os.close(go[1])
        try:
            _build(plan, fds, ready[1], go[0], said[1])
        except (ShimError, OSError) as error:
            os.write(said[1], f"!{error if isinstance(error, ShimError) else line_of(error)}".encode()[:LONGEST])
            return 1
        return 0

    builder = process.fork(build)
    theirs.close()
    for end in (log, ready[1], go[0], said[1]):
        os.close(end)
    try:
        if _answer(ready[0], 1, builder):
            _map_ids(builder, plan.manifest["uid_map"], plan.manifest["gid_map"])
            os.write(go[1], b"g")
        text = _answer(said[0], LONGEST, builder).decode(errors="replace")
    finally:
        for end in (ready[0], go[1], said[0]):
            os.close(end)
        status = process.wait(builder) if process.ends_within(builder, criu.END_SECONDS) else 1
    if status or not text.isdecimal():
        hint = userns.HINT if "unshare" in text else ""
        raise Misfit(f"cannot make the container's namespaces and mounts: {text.lstrip('!')}", hint)
    return criu.Swrk(ours, int(text))


def _answer(end: int, size: int, builder: int) -> bytes:
    """Return what the builder writes to the pipe `end`. If it hangs, kill it, and raise Misfit."""
    if select.select([end], [], [], BUILD_SECONDS)[0]:
        return os.read(end, size)
    waiting = Progress(lambda: [builder]).waiting() or "no reason is known"
    os.kill(builder, signal.SIGKILL)
    said = f"the container's namespaces and mounts are not made after {BUILD_SECONDS:.0f} s: {waiting}"
    raise Misfit(said, "check that the file systems behind config.json's mounts answer")


def _build(plan: RestorePlan, fds: Mapping[int, int], ready: int, go: int, said: int) -> None:
    """Build the sandbox around this process, then fork the child that becomes CRIU.

    It must be a child, since only children enter a new time namespace.
    """
    os.setsid()
    umask = os.umask(0o022)  # CRIU must be able to read what is made here, whichever user it is then
    is_root = os.geteuid() == 0
    names, personality = plan.uts_names(), plan.personality
    if plan.cgroup:
        cgroups.join(plan.cgroup)  # it becomes the root of the namespace that is made below
    for path, kind in plan.joined.items():
        linux.enter(path, kind)
    if plan.keeps_connections and linux.CLONE_NEWNET in plan.joined.values():
        netlock.open_loopback()
    _set_io_priority(plan.manifest.get("io_priority", 0))
    if is_root:
        linux.unshare(linux.CLONE_NEWNS)
        _mount(plan)
    if plan.remapped:
        _raise_limits(plan.limits)
        _give_away(plan, fds)
    if plan.has_user_namespace:
        _enter_user_namespace(ready, go, *plan.numbers)
    os.close(ready)
    if plan.ipc_limits:
        ipc.check(plan.ipc_limits)
    linux.unshare(plan.clone_flags)
    if plan.manifest["clock"]:
        _set_clocks(plan.manifest["clock"])
    if names is not None:
        socket.sethostname(names[0])
        linux.set_domain_name(names[1])
    _set_up_network(plan)
    if not is_root:
        _mount(plan)
    _drop_groups()
    # A program can have dropped for good what it still has in its inheritable set: nobody may put it there again.
    linux.inherit_capabilities()
    if os.geteuid():
        # An exec takes them from any user but the namespace's user 0. CRIU becomes that if it can, though it may be
        # nobody, or somebody else (prepare_userns_creds() in criu/namespaces.c, 4.2).
        linux.keep_capabilities(without=1 << linux.CAP_SETUID)
    os.umask(umask)
    os.write(said, str(_fork_criu(plan, fds, personality)).encode())


def _fork_criu(plan: RestorePlan, fds: Mapping[int, int], personality: int) -> int:
    """Fork a child that becomes CRIU, and return its pid."""
    argv = [plan.program, "swrk", str(CONNECTION)]
    environment = {**_environment(fds), **plan.closed.inner.environment}
    if personality:
        linux.set_personality(personality)  # done last, since it can change what uname(2) returns
    return process.fork(lambda: process.become(argv, environment, fds))


def _environment(fds: Mapping[int, int]) -> dict[str, str]:
    """Return CRIU's environment, with what is loaded into it."""
    environment = {**process.ENVIRONMENT, "LD_PRELOAD": LIBRARY}
    if os.geteuid():
        environment["TAR_OPTIONS"] = TAR_OPTIONS
    if seccomp.FILE in fds:
        environment |= {**seccomp.ENVIRONMENT, "LD_PRELOAD": f"{LIBRARY}:{seccomp.LIBRARY}"}
    return environment


def _raise_limits(limits: Iterable[int]) -> None:
    """Raise our hard limits to those of the container's init: in its user namespace no process may raise them."""
    import resource

    for number, wanted in enumerate(limits):
        soft, hard = resource.getrlimit(number)
        if hard != -1 and (wanted == -1 or wanted > hard):
            try:
                resource.setrlimit(number, (soft, wanted))
            except ValueError:
                pass  # root without CAP_SYS_RESOURCE: CRIU will name the limit that it can't set


def _enter_user_namespace(ready: int, go: int, uid: int, gid: int) -> None:
    """Make a user namespace, and become that user in it once the ids are mapped. Raise ShimError if they are not."""
    linux.unshare(linux.CLONE_NEWUSER)
    os.write(ready, b"r")
    if not os.read(go, 1):
        raise ShimError("no ids were mapped")
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    linux.make_dumpable()


def _set_clocks(values: Mapping[str, int]) -> None:
    """Set the time namespace that children will enter, so that its clocks go on from the container's `values`."""
    wanted = clocks.going_on(values, clocks.offsets())
    _write("/proc/self/timens_offsets", clocks.lines(wanted))


def _set_up_network(plan: RestorePlan) -> None:
    """Set up the loopback device, and set config.json's sysctls, if the network namespace is new.

    CRIU keeps neither for a network namespace that it is told is external.
    """
    if not plan.clone_flags & linux.CLONE_NEWNET:
        return
    linux.link_up("lo")
    for name, value in plan.bundle.sysctls.items():
        if name.startswith("net."):
            try:
                _write("/proc/sys/" + name.replace(".", "/"), value)
            except OSError as error:
                hint = "give the node a kernel that knows it and takes the value, or leave it out of linux.sysctl"
                raise ShimError(f"cannot set {name} to {value!r}: {error.strerror}", hint) from None


def _mount(plan: RestorePlan) -> None:
    """Mount the rootfs, the images, and the source of each external mount, in a mount namespace of our own.

    A source gets the flags that the container's mount had: CRIU 4.2 sets them itself only if they differ from those of
    another mount of the same file system (do_bind_mount_v2 in criu/mount-v2.c), and so leaves all but one of several
    read-only binds of /dev/null writable.
    """
    # Slave, not private: a mount of the container that was a slave of the node's gets its master from here.
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    linux.mount("stage", plan.stage, "tmpfs", 0, "mode=711")
    if plan.bundle.is_bare:
        for number in range(len(plan.unwatched)):
            os.mkdir(f"{plan.stage}/{UNWATCHED}{number}")
        _stage_images(plan)
        bare.mount(plan.manifest["own_places"], plan.own_files)
        return
    _bind(plan.bundle.rootfs, plan.root)
    if plan.remapped:  # in the container's user namespace, CRIU can't take off flags that the mount has on this node
        linux.mount(None, plan.root, None, linux.MS_REMOUNT | linux.MS_BIND | plan.root_flags)
    _stage_images(plan)
    for source in plan.sources:
        if source.device:
            _make_device(source.path, source.device, plan)
        if source.script:
            batch_script.put(source.script, source.path)
        _bind(source.path, source.staged)
        linux.mount(None, source.staged, None, linux.MS_REMOUNT | linux.MS_BIND | source.flags)
    if plan.asked.work:
        _stage_work(plan.asked.work, os.path.join(plan.stage, "work"), plan)
    if not plan.bundle.hooks and not _is_below(plan.stage, TEMPORARY):
        # CRIU makes directories there (mnt_roots and mnt_clean_path in criu/mount.c), and leaves them if it is killed.
        linux.mount("tmp", TEMPORARY, "tmpfs", 0, "mode=1777")


def _stage_images(plan: RestorePlan) -> None:
    """Mount the images, with what is changed for this restore."""
    _bind(plan.images, plan.staged_images)
    os.symlink(plan.staged_images, plan.images_link)
    for path in plan.edits.paths:
        linux.mount(path, os.path.join(plan.staged_images, os.path.basename(path)), None, linux.MS_BIND)
    # Read-only: CRIU would leave its statistics there, in a directory that others may be reading.
    flags = mounts.FLAGS["ro"] | mounts.locked(plan.images, mounts.read())
    linux.mount(None, plan.staged_images, None, linux.MS_REMOUNT | linux.MS_BIND | flags)


def _is_below(path: str, directory: str) -> bool:
    return os.path.realpath(path).startswith(f"{os.path.realpath(directory)}/")


def _stage_work(path: str, staged: str, plan: RestorePlan) -> None:
    """Have CRIU find its work directory `path` at `staged`; if that is closed to it, only the one file it writes there.

    CRIU gets its name from a configuration file: a request could only name it by way of a process that CRIU may look
    into.
    """
    if plan.remapped:
        os.mkdir(staged)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        os.close(os.open(os.path.join(path, STATISTICS), flags, 0o600))
        _bind(os.path.join(path, STATISTICS), os.path.join(staged, STATISTICS))
    else:
        _bind(path, staged)
    _write(os.path.join(plan.stage, CONFIGURATION), f'work-dir "{staged}"\n')


def _give_away(plan: RestorePlan, fds: Mapping[int, int]) -> None:
    """Give the node's user who is root in the container access to the images, the pipes and the stage.

    Root's directories are closed to that user; CRIU opens the pipes anew.
    """
    uid, gid = (_outside(plan.manifest[name]) for name in ("uid_map", "gid_map"))
    images = (os.path.join(place, name) for place, _, names in os.walk(plan.images) for name in ("", *names))
    for path in (*plan.edits.paths, *images):
        _let_read(path, gid)
    if plan.asked.work:
        os.chown(os.path.join(plan.asked.work, STATISTICS), uid, gid, follow_symlinks=False)
    for end in fds.values():
        if stat.S_ISFIFO(os.fstat(end).st_mode):
            os.fchown(end, uid, gid)
    stage = os.open(plan.stage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if closed := _first_closed(plan.stage):
        linux.mount("stage", closed, "tmpfs", 0, "mode=711")
        os.makedirs(plan.stage)
        linux.mount(f"/proc/self/fd/{stage}", plan.stage, None, linux.MS_BIND | linux.MS_REC)
    os.close(stage)


def _let_read(path: str, gid: int) -> None:
    """Give a file or directory to a group, which may then read it; a link, which may lead anywhere, is left alone."""
    if os.path.islink(path):
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fchown(handle, -1, gid)
        mode = os.fstat(handle).st_mode
        os.fchmod(handle, stat.S_IMODE(mode) | (0o050 if stat.S_ISDIR(mode) else 0o040))
    finally:
        os.close(handle)


def _first_closed(path: str) -> str:
    """Return the first directory on the way to `path` that is not open to all; empty if there is none."""
    parts = path.strip("/").split("/")
    ways = ("/" + "/".join(parts[:length]) for length in range(1, len(parts)))
    return next((way for way in ways if not os.stat(way).st_mode & 1), "")


def _outside(mapping: IdMap, number: int = 0) -> int:
    """Return the id on the node that is `number` in the user namespace."""
    found = ids.outside(mapping, number)
    if found is None:
        raise ShimError(f"the container's user namespace has no id {number}", "map one in config.json")
    return found


def _make_device(path: str, device: Document, plan: RestorePlan) -> None:
    """Make one of config.json's devices for a container of root's with a user namespace (config-linux.md, Devices)."""
    kind = stat.S_IFBLK if device["type"] == "b" else stat.S_IFCHR
    os.mknod(path, kind, os.makedev(device["major"], device["minor"]))
    os.chmod(path, device.get("fileMode", 0o666))
    uid, gid = (device.get(name, 0) for name in ("uid", "gid"))
    os.chown(path, _outside(plan.manifest["uid_map"], uid), _outside(plan.manifest["gid_map"], gid))


def _bind(source: str, target: str) -> None:
    """Mount the file or directory `source` at `target`, which is made."""
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    linux.mount(source, target, None, linux.MS_BIND)


def _set_io_priority(value: int) -> None:
    """Set the priority of input and output to that of the container's init, for all its processes.

    CRIU does not restore it.
    """
    if value == linux.io_priority(0):
        return
    try:
        linux.set_io_priority(0, value)
    except PermissionError:
        pass  # the real-time class needs privilege: the node's own priority has to do


def _drop_groups() -> None:
    """Leave all supplementary groups: CRIU sets those of processes that have any, and leaves ours to the others."""
    try:
        os.setgroups([])
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):  # setgroups is denied, as it was in the container
            raise


def _map_ids(pid: int, uids: IdMap, gids: IdMap) -> None:
    """Write the id mappings that the container had, each [inside, outside, count], for `pid`'s user namespace."""
    if uids == [[uids[0][0], os.geteuid(), 1]] and gids == [[gids[0][0], os.getegid(), 1]]:
        _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", f"{uids[0][0]} {uids[0][1]} 1")
        _write(f"/proc/{pid}/gid_map", f"{gids[0][0]} {gids[0][1]} 1")
        return
    if os.geteuid() == 0:
        for name, ranges in (("uid_map", uids), ("gid_map", gids)):
            _write(f"/proc/{pid}/{name}", "\n".join(" ".join(map(str, triple)) for triple in ranges))
        return
    for program, ranges in (("newuidmap", uids), ("newgidmap", gids)):
        path = process.find(program)
        if path is None:
            raise Misfit(f"the container maps ranges of ids, and there is no {program}", "install uidmap")
        numbers = [str(number) for triple in ranges for number in triple]
        status, _, errors = process.output([path, str(pid), *numbers], process.ENVIRONMENT)
        if status:
            raise Misfit(errors.strip() or f"{program} failed", "see /etc/subuid and /etc/subgid")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)
