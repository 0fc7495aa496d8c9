"""Dump one container, on the privileged side: make CRIU's request, and report while everything is frozen.

It runs as the job's user with CAP_SYS_CHROOT and CAP_SYS_ADMIN and nothing else, or as root for a container of root's.
From the user's request it takes only descriptors and options of a closed set.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from contextlib import contextmanager

from oci_criu_shim.errors import Killed, ShimError, Stopped
from oci_criu_shim.files import LIBDIR, remove_if_there
from oci_criu_shim.host import cgroups, clocks, criu, criu_images, linux, mounts, process, progress, watches
from oci_criu_shim.privileged import guard, seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Protocol

    from oci_criu_shim.host.external import External
    from oci_criu_shim.host.wire import DumpReport, Options
    from oci_criu_shim.privileged.target import Target

    class Asker(Protocol):
        """Whoever wants the dump."""

        def takes(self, criu: tuple[int, ...], pages: socket.socket) -> bool:
            """Return whether it takes the memory from `pages`, to which a CRIU of this version sends it."""

        def commit(self, about: DumpReport) -> bool:
            """Return whether it has committed what is dumped, and still frozen."""

        def serves(self) -> None:
            """Hear that memory which is handed out lazily can be asked for."""


LOG = "dump.log"
# Options that are no fields of CRIU's.
OURS = ("network", "for", "page_server", "pre_dump", "incremental", "seal", "inner", "bare", "pages")
CONNECT_SECONDS = 10.0
PAGE_SERVER = 4  # CRIU's descriptor of the connection to it, or to whoever asked for the dump
# bin/ has the gzip that CRIU packs the files of a tmpfs with (spank/gzip.c).
ENVIRONMENT = {"PATH": f"{LIBDIR}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
# Loaded into root's CRIU, so that system calls which a dump interrupts begin again; a user's has it in guard.LIBRARY.
RESTART = f"{LIBDIR}/criu_restart.so"
# How CRIU is told of a network namespace, by the option `network`. None: a restore of ours makes it anew. "joined":
# config.json names it by its path, and it has the name that runc and crun give it. "dumped": CRIU dumps it itself, for
# runc and crun to restore.
NETWORK = {None: "extNet", "joined": "extRootNetNS", "dumped": None}


class Service:
    """A CRIU that has started, of a version that will do; a user's is guarded.

    This takes time, and can be done before the request arrives.
    """

    def __init__(self) -> None:
        self.log = os.memfd_create("criu.log")
        self.guard = guard.Guard() if os.geteuid() else None
        self.pages, theirs = socket.socketpair()
        more = {PAGE_SERVER: theirs.fileno()}
        with theirs:
            self.swrk = (
                self.guard.start(ENVIRONMENT, self.log, more) if self.guard else _start_unguarded(self.log, more)
            )
        try:
            self.version = _version(self.swrk)
            criu.require_version(self.version)
            if self.guard:
                self.guard.require_loaded()
                guard.confine()
        except BaseException:
            self.swrk.close()
            raise

    def connect(self, address: str, port: int) -> None:
        """Have memory go to the page server there; ShimError if none answers.

        CRIU would notice that only when everything is frozen, and end the container: it has a process that it can't
        leave.
        """
        try:
            server = socket.create_connection((address, port), CONNECT_SECONDS)
        except OSError as error:
            hint = "start `criu page-server --images-dir DIR --port PORT` there first"
            raise ShimError(f"no page server answers at {address}:{port}: {error.strerror or error}", hint) from None
        with server:
            server.settimeout(None)
            self.swrk.close()
            self.swrk = _start_unguarded(self.log, {PAGE_SERVER: server.fileno()})

    def sends_pages(self, asker: Asker) -> bool:
        """Return whether memory is sent to whoever asks for the dump."""
        with self.pages:
            return asker.takes(self.version, self.pages)


def _start_unguarded(log: int, more: Mapping[int, int]) -> criu.Swrk:
    """Start root's own CRIU; ShimError if what is loaded into it is missing, which ld.so would only warn about."""
    if not os.path.exists(RESTART):
        said = f"there is no {RESTART}, without which sleeping system calls would end by a checkpoint"
        raise ShimError(said, "install oci-criu-shim again")
    return criu.start({**ENVIRONMENT, "LD_PRELOAD": RESTART}, log, more)


def _version(swrk: criu.Swrk) -> tuple[int, ...]:
    """Return CRIU's version; if it doesn't even start, say whether it is too old for that."""
    try:
        return swrk.version()
    except Killed:
        criu.require_version(criu.version(ENVIRONMENT))
        raise


def options(target: Target, directories: list[int], asked: Options, found: list[External]) -> dict[str, object]:
    """Return CRIU's request: its field names and values (criu's images/rpc.proto)."""
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
        # The owner of a user namespace has all rights in the network namespaces that belong to it.
        "tcp_established": os.geteuid() != 0 and not target.shares("net"),
        "tcp_skip_in_flight": True,
        "link_remap": True,
        "orphan_pts_master": True,  # a terminal's master is the supervisor's
        "ghost_limit": criu.GHOST_LIMIT,
        "notify_scripts": True,
        # Docker pauses a container for its checkpoint. CRIU thaws it, since it could not see into the frozen.
        **({"freeze_cgroup": frozen} if frozen else {}),
        **_page_server(asked),
        # It is in the images' directory already; CRIU would make a link to it there.
        **({"parent_img": seal.PARENT} if asked.get("incremental") else {}),
        **{name: value for name, value in asked.items() if name not in OURS},
    }


def _page_server(asked: Options) -> dict[str, object]:
    """Return the place for memory: whoever asks for it at the port, else the connection that there is."""
    if asked.get("pages"):
        return {"ps": {"port": 0, "fd": PAGE_SERVER}}
    if "page_server" not in asked:
        return {}
    port = asked["page_server"][1]
    return {"ps": {"port": port} if asked.get("lazy_pages") else {"port": port, "fd": PAGE_SERVER}}


class FreezeWatch:
    """Notes the clocks as soon as all tasks are frozen, so that no clock is seen to run backwards after a restore."""

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
                os.stat(criu.FILES, dir_fd=self.images)
            except FileNotFoundError:
                continue
            self._note()
            return

    def _note(self) -> None:
        self.frozen = (clocks.now(self.theirs, self.ours), time.monotonic_ns())

    def clock(self) -> dict[str, int]:
        """Return the clocks when everything froze, which it has."""
        self.stop.set()
        self.thread.join()
        if self.frozen is None:
            self._note()
        assert self.frozen is not None
        return self.frozen[0]

    def elapsed(self) -> int:
        """Return the nanoseconds since everything froze; 0 if that was not seen."""
        return time.monotonic_ns() - self.frozen[1] if self.frozen else 0


def _require_no_lead(images: int, has_parent: bool) -> None:
    """Raise ShimError if anything in the images' directory would lead CRIU elsewhere, or is an unexpected parent."""
    modes = {name: os.stat(name, dir_fd=images, follow_symlinks=False).st_mode for name in linux.names(images)}
    leads = [name for name, mode in modes.items() if stat.S_ISLNK(mode) or (name == seal.PARENT and not has_parent)]
    if leads:
        raise ShimError(f"the images' directory has {leads[0]!r}, which would lead CRIU elsewhere", "name an empty one")


def _watched(init: int) -> bytes:
    """Return CRIU's image of the paths of what the container's processes watch; nothing if they watch nothing."""
    watched = set().union(*map(watches.of, process.tree(init)))
    return criu_images.irmap_cache(watches.find(init, watched)) if watched else b""


@contextmanager
def _cache(work: int, image: bytes) -> Iterator[None]:
    """Have root's CRIU find that image in the directory it works in, unless a pre-dump has left one."""
    if not image or watches.CACHE in linux.names(work):
        yield
        return
    descriptor = os.open(watches.CACHE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=work)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(image)
        yield
    finally:
        remove_if_there(watches.CACHE, work)  # or what is a checkpoint already would be taken for a failure


def _key() -> bytes:
    """Return the key of the step, with which its workers seal images; its helper gives it to each of them."""
    key = bytes.fromhex(os.environ.get("OCI_CRIU_SHIM_KEY", ""))
    if not key:
        raise ShimError("the step's helper has given no key for increments", "install oci-criu-shim's plugin again")
    return key


class _Notices:
    """What happens when CRIU notifies us, for which it calls this.

    `sealed` returns the seal of the images, empty if they have none.
    """

    def __init__(
        self,
        service: Service,
        target: Target,
        watch: FreezeWatch,
        found: list[External],
        sealed: Callable[[], str],
        asker: Asker,
    ) -> None:
        self.service = service
        self.target = target
        self.watch = watch
        self.found = found
        self.sealed = sealed
        self.asker = asker
        self.refused: ShimError | OSError | None = None

    def __call__(self, event: str, _: int) -> bool:
        if self.service.guard:
            linux.make_undumpable()  # the first event comes before anything is dumped
        if event == "status-ready":
            self.asker.serves()
        if event != "post-dump":
            return True
        report = self._report()
        try:
            return self.asker.commit(report)
        except (ShimError, OSError) as error:
            self.refused = error
            return False

    def _report(self) -> DumpReport:
        report: DumpReport = {
            "clock": self.watch.clock(),
            "frozen_ns": self.watch.elapsed(),
            "external": self.found,
            "criu": ".".join(map(str, self.service.version)),
            "network": "shared" if self.target.shares("net") else "own",
        }
        if seal_of := self.sealed():
            report["seal"] = seal_of
        return report


def dump(
    service: Service,
    target: Target,
    directories: list[int],
    asked: Options,
    asker: Asker,
) -> int:
    """Dump `target` into the first of the `directories`, logging to the last, and return for how many nanoseconds the
    container was frozen. Raise ShimError, with CRIU's own words, if that fails.

    `asker` is asked to commit when everything is written and still frozen. If it does not, the container runs on as if
    nothing had been. After that, it is told if memory is handed out lazily. A pre-dump, of memory alone, asks for no
    commit.
    """
    images = directories[0]
    found = _external(target, asked)
    if "page_server" in asked and not asked.get("lazy_pages"):
        service.connect(*asked["page_server"])
    key = _key() if os.geteuid() and asked.get("track_mem") else b""
    parent = asked.get("seal", "") if key and asked.get("incremental") else None
    if parent is not None:
        seal.require(key, images, parent)
    watched = _watched(target.pid)
    if service.guard:
        _require_no_lead(images, parent is not None)
        # Without an image, CRIU would look in the parent for one.
        service.guard.tell(watched or criu_images.NO_PATHS)
        service.guard.admit(directories, parent is not None)
    if asked.get("pages"):
        asked = {**asked, "pages": service.sends_pages(asker)}
    watch = FreezeWatch(target, images)

    def sealed() -> str:
        return seal.of(key, images, parent or "") if key else ""

    moments = _Notices(service, target, watch, found, sealed, asker)
    with _cache(directories[-1], b"" if service.guard or asked.get("pre_dump") else watched):
        frozen = _request(service, target, directories, asked, moments)
    if moments.refused:
        raise moments.refused
    return frozen


def _external(target: Target, asked: Options) -> list[External]:
    """Return the container's mounts that CRIU is to take for given, by the names that whoever restores them uses."""
    if asked.get("bare"):
        return mounts.of_bare_task(mounts.read(target.pid))
    found = mounts.external(mounts.read(target.pid), mounts.read(), asked.get("inner", ()))
    for entry in found if asked.get("for") == "runc" else ():
        if (entry["kind"], entry["root"]) == ("device", "/null"):
            entry["name"] = "/dev/null"  # runc 1.1 has one name for all masked files
    return found


def _request(service: Service, target: Target, directories: list[int], asked: Options, moments: _Notices) -> int:
    """Have CRIU dump, and return for how many nanoseconds the container was frozen."""
    watch, sizes = moments.watch, progress.Sizes(directories[0])
    try:
        kind = "SINGLE_PRE_DUMP" if asked.get("pre_dump") else "DUMP"
        request = options(target, directories, asked, moments.found)
        target.require_alive()  # what was looked up meanwhile took time, in which its number may become another's
        response = service.swrk.request(kind, request, moments, _progress(service, sizes, asked))
        frozen = watch.elapsed()  # CRIU answers when it has let go of the container
    except Stopped as error:
        log = f"/proc/self/fd/{service.log}"
        raise Stopped(criu.last_words(error, log), criu.meaning(criu.errors(log))) from None
    finally:
        watch.stop.set()
        sizes.stop()
        if len(directories) > 1:
            _keep_log(service.log, directories[-1])
    if not response.success and not moments.refused:
        raise _failure(service.log, response)
    return frozen


def _progress(service: Service, sizes: progress.Sizes, asked: Options) -> progress.Progress | None:
    """Return what shows that a dump gets on; None if it may wait for ever for whoever asks for its memory."""
    if asked.get("lazy_pages"):
        return None
    return progress.Progress(lambda: process.tree(service.swrk.pid), more=lambda: sizes.found)


def _keep_log(log: int, work: int) -> None:
    """Leave CRIU's log for callers of runc and crun, which look for it there; if the disk is full, leave less of it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK  # whatever the user has put there
    descriptor = linux.open_in(work, LOG, flags, 0o600)
    try:
        os.sendfile(descriptor, log, 0, os.fstat(log).st_size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(descriptor)


def _failure(log: int, response: criu.Message) -> ShimError:
    lines = criu.errors(f"/proc/self/fd/{log}")
    said = criu.summary(lines) or response.cr_errmsg or f"error {response.cr_errno}"
    return ShimError(f"CRIU could not dump the container: {said}", criu.meaning(lines))
