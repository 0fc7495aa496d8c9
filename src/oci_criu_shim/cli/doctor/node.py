"""Check the node itself: kernel, CRIU, backend, Python's packages, settings, checkpoint directory."""

from __future__ import annotations

import functools
import os

from oci_criu_shim import config, values
from oci_criu_shim.checkpoints import codec, integrity
from oci_criu_shim.cli.doctor import installation, local, pace, roots, sandbox, settings
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.container import backends, bare
from oci_criu_shim.dump.faults import processes
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu, linux, mounts, process

# The kernel features that a restore is built on, by the names of `criu check --feature`.
FEATURES = ("timens", "external_net_ns", "cgroupns", "mnt_id", "fdinfo_lock", "timerfd", "get_rseq_conf")
NAMESPACES = {
    "mount": linux.CLONE_NEWNS,
    "network": linux.CLONE_NEWNET,
    "UTS": linux.CLONE_NEWUTS,
    "control group": linux.CLONE_NEWCGROUP,
    "pid": linux.CLONE_NEWPID,
    "time": linux.CLONE_NEWTIME,
}
# The value of a sysctl that keeps users from making namespaces, and what it should be.
SYSCTLS = (
    ("user.max_user_namespaces", "0", "10000"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)
UNIFIED = "/sys/fs/cgroup/cgroup.controllers"
INSTANCES = "fs.inotify.max_user_instances"
OTHERS_INSTANCES = 64  # what other programs of root's may have
APPARMOR_ENABLED = "/sys/module/apparmor/parameters/enabled"


def user_namespaces() -> str:
    """Check that a user can make a user namespace, with which a restore begins."""
    if error := sandbox.run(lambda: None):
        raise ShimError(f"a user can't make a user namespace: {error}", sysctl_hint())
    return "a user can make one"


def namespaces() -> str:
    """Check that a user can make the other namespaces in that one, with which a restore goes on."""
    refused = {}
    for name, flag in NAMESPACES.items():
        if error := sandbox.run(functools.partial(linux.unshare, flag)):
            refused[name] = error
    if refused:
        said = "; ".join(f"{name}: {error}" for name, error in refused.items())
        raise ShimError(f"a user can't make, in a user namespace: {said}", sysctl_hint())
    return f"Linux {os.uname().release}: {', '.join(NAMESPACES)}"


def sysctl_hint() -> str:
    """Return how to change the sysctl that is in the way, or what else may be."""
    for name, bad, good in SYSCTLS:
        if sysctl(name) == bad:
            return f"sysctl -w {name}={good}, and the same in /etc/sysctl.d"
    return "boot a kernel with CONFIG_USER_NS, CONFIG_TIME_NS, ...; in a container, its seccomp profile may forbid them"


def sysctl(name: str) -> str:
    """Return the value of a kernel parameter; empty if this kernel has none of that name."""
    try:
        with open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as stream:
            return stream.read().strip()
    except FileNotFoundError:
        return ""


def criu_version() -> str:
    """Check that CRIU is there, and new enough for this kernel."""
    path = criu.program()
    found = criu.version(os.environ)
    criu.require_version(found)
    return f"{path} {'.'.join(map(str, found))}"


def pycriu() -> str:
    """Check that pycriu is there, and as new as CRIU, if that is."""
    path = criu.bindings()
    if process.find("criu"):
        criu.require_bindings(criu.version(os.environ))
    return path


def criu_features() -> str:
    """Check the kernel by CRIU's own check, run as a restore is: by a user, in a user namespace."""
    try:
        program = criu.program()
    except ShimError as missing:
        raise Skipped(str(missing)) from None

    def ask() -> None:
        if missing := [name for name in FEATURES if not criu.supports(program, name)]:
            raise ShimError(f"criu check: no {', '.join(missing)}")

    if error := sandbox.run(ask):
        raise ShimError(error, "boot a newer kernel: 5.13 or later has them all")
    return ", ".join(FEATURES)


def apparmor() -> str:
    """Check that CRIU can see AppArmor profiles; if it can't, it doesn't keep those of containers."""
    try:
        with open(APPARMOR_ENABLED, encoding="ascii") as stream:
            enabled = stream.read().strip() == "Y"
    except FileNotFoundError:
        enabled = False
    if not enabled:
        raise Skipped("this kernel has none, or it is turned off")
    if not os.path.exists(processes.APPARMOR):
        said = "securityfs is not mounted: containers with an AppArmor profile can't be checkpointed"
        raise Caution(said, processes.MOUNT_SECURITYFS)
    return processes.APPARMOR


def inotify() -> str:
    """Check for room for a watcher of each job: with version 2 of control groups it has one of root's instances."""
    if not os.path.exists(UNIFIED):
        raise Skipped("needed with version 2 of control groups only")
    most, jobs = int(sysctl(INSTANCES)), os.cpu_count() or 1
    if most < jobs + OTHERS_INSTANCES:
        said = f"{INSTANCES}={most}: with {jobs} jobs here, root may run out of them"
        raise Caution(
            f"{said}; a job without one is not told of its preemption",
            f"sysctl -w {INSTANCES}={max(1024, 2 * jobs)}, and the same in /etc/sysctl.d",
        )
    return f"{INSTANCES}={most}"


def installed_backends() -> str:
    """Check the programs that create containers by default and look after restored ones."""
    names = dict.fromkeys((settings.usable()[0].backend or backends.DEFAULT, backends.DEFAULT))
    return "; ".join(map(program_version, names))


def bare_tasks() -> str:
    """Check for the init of tasks without a container, if the site has them checkpointed."""
    if settings.usable()[0].bare_jobs == ["none"]:
        raise Skipped("bare-jobs is none in config.toml")
    try:
        return bare.init()[0]
    except ShimError as missing:
        raise Caution(str(missing), f"{missing.hint}, or set bare-jobs to none in config.toml") from None


def program_version(name: str) -> str:
    """Return a program's path and what it says its version is. Root runs only what nobody else can write."""
    path = process.find(name)
    if path is None:
        where = "" if "/" in name else f" in {process.PATH}"
        raise ShimError(f"no {name}{where}", f"install {os.path.basename(name)}, or name another backend")
    if os.geteuid() == 0:
        try:
            roots.require(path, "root does not ask for its version, but everybody's jobs run it")
        except ShimError as error:
            raise Caution(str(error), error.hint) from None
    status, text, errors = process.output([path, "--version"], os.environ)
    if status:
        raise ShimError(f"{path} --version: {errors.strip()}", f"install {name} again")
    return f"{path}: {text.splitlines()[0] if text else 'no version'}"


def jsonschema() -> str:
    """Check for jsonschema, which only words the faults of a config.json."""
    try:
        import jsonschema as module
    except ImportError as error:
        raise Caution(f"{error}: faults of a config.json can't be told", "install python3-jsonschema") from None
    return str(module.__file__)


def subids() -> str:
    """Check for the two setuid programs that map ranges of ids when a container that has them is restored."""
    found = [path for path in ("/etc/subuid", "/etc/subgid") if has_range(path)]
    if not found:
        raise Skipped("no ranges in /etc/subuid and /etc/subgid")
    missing = [name for name in ("newuidmap", "newgidmap") if process.find(name) is None]
    if missing:
        raise ShimError(f"{' and '.join(found)} give ranges, and there is no {', '.join(missing)}", "install uidmap")
    return f"ranges in {' and '.join(found)}; newuidmap, newgidmap"


def has_range(path: str) -> bool:
    """Return whether the file gives ids to this user; for root, to anybody."""
    uid = os.geteuid()
    names = {str(uid), process.user_name(uid)}
    try:
        with open(path, encoding="utf-8") as stream:
            owners = {line.split(":")[0].strip() for line in stream if ":" in line}
    except FileNotFoundError:
        return False
    return bool(owners if uid == 0 else owners & names)


def compression() -> str:
    """Check for the library of the setting `compress`, without which checkpoints stay as they are."""
    setting = settings.usable()[0].compress
    if (chosen := codec.parse(setting)) is None:
        return setting
    try:
        return f"{setting}: {chosen.load().__file__}"
    except ShimError as error:
        raise Caution(f"{error}: checkpoints stay uncompressed, and others' can't be restored", error.hint) from None


def checksums() -> str:
    """Check for the library of the fast kind of checksums."""
    if integrity.XXH3 not in integrity.kinds():
        said = "no xxhash: checksums of memory take several times as long, and those of nodes that have it can't be"
        raise Caution(f"{said} compared here", f"install {integrity.PACKAGE}")
    return "XXH3"


def directory() -> str:
    """Check that a user can write where checkpoints go by default, and that other nodes can read it."""
    path, is_own = checkpoint_directory()
    there = existing(path)
    if is_own and not os.access(there, os.W_OK | os.X_OK):
        raise ShimError(f"{path}: {there} can't be written", "chmod it, or set checkpoint-dir in config.toml")
    kind = filesystem(there)
    if kind in mounts.IN_MEMORY:
        raise ShimError(f"{path} is on a {kind}", "set checkpoint-dir in config.toml to a shared file system")
    if not mounts.is_shared(kind):
        raise Caution(
            f"{path} is on {kind}: is it the same on all nodes?",
            "if it is not, jobs can't be continued on another node: set checkpoint-dir in config.toml to a directory "
            "on a shared file system",
        )
    return f"{path} on {kind}"


def space() -> str:
    """Check for room for one checkpoint of all of this node's memory."""
    path, _ = checkpoint_directory()
    stat = os.statvfs(existing(path))
    free, memory = stat.f_bavail * stat.f_frsize, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = f"{gib(free)} free at {path}, memory {gib(memory)}"
    hint = "make room, or set checkpoint-dir in config.toml to a larger file system"
    if not free or (stat.f_files and not stat.f_favail):
        raise ShimError(f"{path}: the file system is full", hint)
    if free < memory:
        raise Caution(found, hint)
    return found


def checkpoint_directory() -> tuple[str, bool]:
    """Return the site's checkpoint-dir as this user has it, and True; for root, what of it all users share, and False.

    Raise Skipped if they share nothing.
    """
    loaded, written = settings.usable()
    text = str(written.get("checkpoint-dir", config.DEFAULTS["checkpoint-dir"]))
    if os.geteuid() or not values.is_each_users(text):
        return os.path.normpath(loaded.checkpoint_dir), True
    if not text.startswith("/"):
        raise Skipped(f"{text}: every user has another one", "run doctor as a user too")
    return os.path.dirname(text.partition("$")[0]), False


def existing(path: str) -> str:
    """Return the nearest directory upwards that exists: the first job makes the missing ones."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def filesystem(path: str) -> str:
    """Return the type of the file system that `path` is on."""
    path = os.path.realpath(path)
    best = mounts.deepest(path, mounts.read())
    return best.kind if best else "an unknown file system"


def gib(size: int) -> str:
    """Return bytes for people to read."""
    return f"{size / (1 << 30):.1f} GiB"


CHECKS = (
    ("installation", installation.whole),
    ("user namespaces", user_namespaces),
    ("namespaces", namespaces),
    ("criu", criu_version),
    ("criu check", criu_features),
    ("apparmor", apparmor),
    ("inotify", inotify),
    ("backend", installed_backends),
    ("tasks without a container", bare_tasks),
    ("pycriu", pycriu),
    ("jsonschema", jsonschema),
    ("subordinate ids", subids),
    ("config.toml", settings.check),
    ("compression", compression),
    ("checksums", checksums),
    ("checkpoint-dir", directory),
    ("free space", space),
    ("pace-dir", pace.check),
    ("local-dir", local.check),
)
