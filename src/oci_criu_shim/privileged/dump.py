"""One dump of one container, checked again on this side of the privilege boundary.

Runs as the job's user with CAP_SYS_CHROOT and CAP_SYS_ADMIN and nothing else (or as
root, for a container of root's). Of what the user asks, only descriptors and options of a closed set are taken;
CRIU's request is made here.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import threading
import time

from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.host import cgroups, clocks, criu, linux, mounts
from oci_criu_shim.privileged import seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LOG = "dump.log"
NS_GET_OWNER_UID = 0xB704  # linux/nsfs.h
GHOST_LIMIT = 1 << 30  # deleted files that are still open are kept up to this size, in bytes
OURS = ("network", "for", "page_server", "pre_dump", "incremental", "seal")  # what is no field of CRIU's request
CONNECT_SECONDS = 10.0
PAGE_SERVER = 4  # CRIU's descriptor of the connection to it
# Where we are installed: bin/ has the gzip that CRIU packs what is in a tmpfs with (spank/gzip.c).
HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = {"PATH": f"{HOME}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
# What keeps a user's CRIU from the user, and from what no dump needs (spank/criu_preload.c). It shares the file at MARK
# with us: six numbers of 64 bits. It sets the first, Ready.begin() the others.
PRELOAD = f"{HOME}/criu_preload.so"
MARK = 5
GUARDED = {**ENVIRONMENT, "LD_PRELOAD": PRELOAD, "OCI_CRIU_SHIM_LOADED": str(MARK)}


class Target:
    """The container's init, named by a pidfd, so that its number cannot come to mean another."""

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
        """The inode number of one of its namespaces."""
        return os.stat(f"/proc/{self.pid}/ns/{name}").st_ino

    def shares(self, name: str) -> bool:
        """Whether a namespace of its is the node's."""
        return self.namespace(name) == os.stat(f"/proc/self/ns/{name}").st_ino

    def _check_owner(self, uid: int) -> None:
        """Its user namespace must be one that the user made: only there is all of it his own."""
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
        """It must be in the job's control group, "CONTROLLERS:PATH", or below that."""
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


# How CRIU is told of a network namespace: by a restore of ours it is made anew; one that config.json names by its path
# has the name that runc and crun give it; CRIU dumps the third itself, for those two to restore.
NETWORK = {None: "extNet", "joined": "extRootNetNS", "dumped": None}


def options(
    target: Target, directories: list[int], asked: dict[str, Any], found: list[dict[str, Any]]
) -> dict[str, Any]:
    """CRIU's request: its field names and values (criu's images/rpc.proto)."""
    external = [f"mnt[{entry['key']}]:{entry.get('name', entry['key'])}" for entry in found]
    network = NETWORK[asked.get("network")]
    if network and not target.shares("net"):
        external.append(f"net[{target.namespace('net')}]:{network}")
    frozen = cgroups.frozen(target.pid) if os.geteuid() == 0 else None
    return {
        "pid": target.pid,
        "images_dir_fd": directories[0],
        "work_dir_fd": directories[-1],
        "log_to_stderr": True,  # a log beside the images could not say that the disk is full
        "log_level": 2,
        "unprivileged": os.geteuid() != 0,
        "external": external,
        "manage_cgroups_mode": "IGNORE",
        "network_lock": "SKIP",
        "file_locks": True,
        "link_remap": True,
        "orphan_pts_master": True,  # a terminal's master is the supervisor's
        "ghost_limit": GHOST_LIMIT,
        "notify_scripts": True,
        # Docker pauses a container for its checkpoint. CRIU thaws it, since it could not see into the frozen.
        **({"freeze_cgroup": frozen} if frozen else {}),
        **_page_server(asked),
        # It is in the images' directory already, where CRIU would make a link to it.
        **({"parent_img": seal.PARENT} if asked.get("incremental") else {}),
        **{name: value for name, value in asked.items() if name not in OURS},
    }


def _page_server(asked: dict[str, Any]) -> dict[str, Any]:
    """Where memory goes: to whoever asks for it at the port, else down the connection that there is."""
    if "page_server" not in asked:
        return {}
    port = asked["page_server"][1]
    return {"ps": {"port": port} if asked.get("lazy_pages") else {"port": port, "fd": PAGE_SERVER}}


class FreezeWatch:
    """Notes the clocks as soon as all tasks are frozen, so that none is seen to run backwards."""

    def __init__(self, target: Target, images: int) -> None:
        self.images = images
        self.theirs, self.ours = clocks.offsets(target.pid), clocks.offsets()
        self.frozen: tuple[dict[str, int], int] | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.stop.wait(0.001):
            try:
                os.stat(criu.FROZEN_MARK, dir_fd=self.images)
            except FileNotFoundError:
                continue
            self._note()
            return

    def _note(self) -> None:
        self.frozen = (clocks.now(self.theirs, self.ours), time.monotonic_ns())

    def clock(self) -> dict[str, int]:
        """The clocks when it froze, which it has."""
        self.stop.set()
        self.thread.join()
        if self.frozen is None:
            self._note()
        assert self.frozen is not None
        return self.frozen[0]

    def elapsed(self) -> int:
        """The nanoseconds since then; 0 where it was not seen."""
        return time.monotonic_ns() - self.frozen[1] if self.frozen else 0


class Ready:
    """CRIU, started, of a version that will do, and guarded from its user: what takes time and can be done before the
    request is there."""

    def __init__(self) -> None:
        self.log = os.memfd_create("criu.log")
        mark = os.memfd_create("mark")
        os.ftruncate(mark, mmap.PAGESIZE)
        self.mark = mmap.mmap(mark, mmap.PAGESIZE)
        self.swrk = criu.start(GUARDED, self.log, {MARK: mark}) if os.geteuid() else criu.start(ENVIRONMENT, self.log)
        try:
            self.version = _version(self.swrk)
            criu.require_version(self.version)
            if os.geteuid():
                _require_guarded(self.mark)
                _confine()
                linux.make_undumpable()
        except BaseException:
            self.swrk.close()
            raise
        finally:
            os.close(mark)

    def begin(self, directories: list[int], has_parent: bool) -> None:
        """Before a user's dump to the `directories`: whether CRIU may see a parent in the first one. CRIU opens them by
        our /proc, and must be let in there until it has."""
        images, work = os.fstat(directories[0]), os.fstat(directories[-1])
        places = images.st_dev, images.st_ino, work.st_dev, work.st_ino
        struct.pack_into("=5Q", self.mark, 8, has_parent, *places)
        linux.make_dumpable()

    def connect(self, address: str, port: int) -> None:
        """Have memory go to the page server there; ShimError where none answers. (CRIU would find that out when all is
        frozen, and end the container: it has a process that it can't leave.)"""
        try:
            server = socket.create_connection((address, port), CONNECT_SECONDS)
        except OSError as error:
            hint = "start `criu page-server --images-dir DIR --port PORT` there first"
            raise ShimError(f"no page server answers at {address}:{port}: {error.strerror or error}", hint) from None
        with server:
            server.settimeout(None)
            self.swrk.close()
            self.swrk = criu.start(ENVIRONMENT, self.log, {PAGE_SERVER: server.fileno()})


def _version(swrk: criu.Swrk) -> tuple[int, ...]:
    """CRIU's version; ShimError, where it does not even start, says whether it is too old for that."""
    try:
        return swrk.version()
    except Killed:
        criu.require_version(criu.version(ENVIRONMENT))
        raise


def _require_no_lead(images: int, has_parent: bool) -> None:
    """Raise ShimError where something in the images' directory would lead CRIU elsewhere, or is a parent but none."""
    with os.scandir(images) as entries:
        leads = [e.name for e in entries if e.is_symlink() or (e.name == seal.PARENT and not has_parent)]
    if leads:
        raise ShimError(f"the images' directory has {leads[0]!r}, which would lead CRIU elsewhere", "name an empty one")


def _require_guarded(mark: mmap.mmap) -> None:
    """Raise ShimError where CRIU, which has answered, runs without the library: ld.so only warns of that, and a static
    program has no ld.so."""
    if not any(mark[:8]):
        said = f"CRIU runs without {PRELOAD}, which guards it from the container's user"
        raise ShimError(said, "install oci-criu-shim again, and a CRIU that is linked dynamically")


def _confine() -> None:
    """Have the kernel refuse this process what no dump needs, as CRIU is from the first process that it dumps on."""
    import ctypes

    library = ctypes.CDLL(PRELOAD, use_errno=True)
    if library.confine() < 0:
        said = f"the worker can't be confined: {os.strerror(ctypes.get_errno())}"
        raise ShimError(said, "the kernel must have seccomp filters")


def _key() -> bytes:
    """What a step's workers seal images with, as its helper gave it to each."""
    key = bytes.fromhex(os.environ.get("OCI_CRIU_SHIM_KEY", ""))
    if not key:
        raise ShimError("the step's helper has given no key for increments", "install oci-criu-shim's plugin again")
    return key


def dump(
    ready: Ready,
    target: Target,
    directories: list[int],
    asked: dict[str, Any],
    commit: Callable[[dict[str, Any]], bool],
    serves: Callable[[], None],
) -> int:
    """Dump `target` into the first of the `directories`, logging to the last, as `asked`; for how many nanoseconds it
    was frozen. ShimError, with CRIU's own words, where it fails.

    When all is written and everything still frozen, `commit` is told of it; where it returns
    False, or raises, the container runs on as if nothing had been. After it, where memory is handed out lazily,
    `serves` is called once that can be asked for. A pre-dump, of memory alone, asks for none.
    """
    found = mounts.external(mounts.read(target.pid), mounts.read())
    if asked.get("for") == "runc":
        for entry in found:
            if (entry["kind"], entry["root"]) == ("device", "/null"):
                entry["name"] = "/dev/null"  # runc 1.1 has one name for all masked files
    if "page_server" in asked and not asked.get("lazy_pages"):
        ready.connect(*asked["page_server"])
    key = _key() if os.geteuid() and asked.get("track_mem") else b""
    has_parent = bool(key and asked.get("incremental"))
    if has_parent:
        seal.require(key, directories[0], asked.get("seal", ""))
    if os.geteuid():
        _require_no_lead(directories[0], has_parent)
        ready.begin(directories, has_parent)
    watch = FreezeWatch(target, directories[0])
    refused: list[Exception] = []

    def notified(event: str, _: int) -> bool:
        if os.geteuid():
            linux.make_undumpable()  # the first event comes before anything is dumped
        if event == "status-ready":
            serves()
        if event != "post-dump":
            return True
        report = {
            "clock": watch.clock(),
            "frozen_ns": watch.elapsed(),
            "external": found,
            "criu": ".".join(map(str, ready.version)),
            "network": "shared" if target.shares("net") else "own",
            **({"seal": seal.of(key, directories[0], asked["seal"] if has_parent else "")} if key else {}),
        }
        try:
            return commit(report)
        except (ShimError, OSError) as error:
            refused.append(error)
            return False

    try:
        kind = "SINGLE_PRE_DUMP" if asked.get("pre_dump") else "DUMP"
        response = ready.swrk.request(kind, options(target, directories, asked, found), notified)
        frozen = watch.elapsed()  # CRIU answers when it has let go of it
    finally:
        watch.stop.set()
        if len(directories) > 1:
            _keep_log(ready.log, directories[-1])
    if refused:
        raise refused[0]
    if not response.success:
        raise _failure(ready.log, response)
    return frozen


def _keep_log(log: int, work: int) -> None:
    """Leave CRIU's log where callers of runc and crun look for it; where the disk is full, they find less of it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK  # whatever the user has put there
    descriptor = os.open(LOG, flags, 0o600, dir_fd=work)
    try:
        os.sendfile(descriptor, log, 0, os.fstat(log).st_size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(descriptor)


def _failure(log: int, response: Any) -> ShimError:
    lines = criu.errors(f"/proc/self/fd/{log}")
    said = " | ".join(lines) or response.cr_errmsg or f"error {response.cr_errno}"
    return ShimError(f"CRIU could not dump the container: {said}", criu.meaning(lines))
