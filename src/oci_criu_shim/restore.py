"""Starting a container from a checkpoint, without any privilege.

What CRIU could only rebuild with privilege is made before it starts (builder.py): user, network, UTS,
control group and time namespaces, the last with offsets so that the clocks go on. CRIU then restores
inside of them, and the images' inventory is told that they are its own.
"""

from __future__ import annotations

import base64
import os
import signal

from oci_criu_shim import builder, criu, files, fit, groups, hooks, linux, mounts
from oci_criu_shim.bundle import check_restorable
from oci_criu_shim.checkpoints import store
from oci_criu_shim.checkpoints.integrity import Verification
from oci_criu_shim.checkpoints.unpacking import Unpacked
from oci_criu_shim.errors import Misfit, NotRestored, ShimError
from oci_criu_shim.log import Log
from oci_criu_shim.written import Rollback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from oci_criu_shim.bundle import Bundle
    from oci_criu_shim.checkpoints.store import Checkpoint
    from oci_criu_shim.container import Container
    from oci_criu_shim.detached import Streams
    from oci_criu_shim.stdio import Stdio

LOG = "restore.log"
OUTSIDE = {  # namespaces made before CRIU starts, by their name in CRIU's images: config.json's name, flag
    "net_ns_id": ("network", linux.CLONE_NEWNET),
    "uts_ns_id": ("uts", linux.CLONE_NEWUTS),
    "cgroup_ns_id": ("cgroup", linux.CLONE_NEWCGROUP),
}
# When CRIU says so, which hooks are run. The first finds the container's namespaces with the node's
# mounts in them, as before pivot_root; the second all processes restored and not yet running.
AT_NAMESPACES, AT_RESTORED = "setup-namespaces", "post-restore"


class Asked:
    """What the command line says of a restore: fields of CRIU's request, a directory for its log and statistics."""

    def __init__(self, fields: dict[str, Any] | None = None, work: str | None = None) -> None:
        self.fields = fields or {}
        self.work = os.path.abspath(work) if work else None


class Source:
    """What an external mount is made from: `path` on the node, mounted at `staged` with `flags`. `device` is that of
    config.json's linux.devices that is to be made at `path` first."""

    def __init__(self, entry: Mapping[str, Any], path: str, staged: str, device: dict[str, Any] | None) -> None:
        self.path = path
        self.staged = staged
        self.device = device
        self.flags = mounts.flags(entry["options"])
        self.external = f"mnt[{entry.get('name', entry['key'])}]:{staged}"


class Plan:
    """All that is known before anything is made."""

    def __init__(self, container: Container, bundle: Bundle, checkpoint: Checkpoint, asked: Asked) -> None:
        self.container = container
        self.asked = asked
        self.bundle = bundle
        self.program = criu.program()
        self.manifest = checkpoint.manifest
        self.images = checkpoint.images
        self.inventory = container.path(builder.INVENTORY)
        self.log = os.path.join(asked.work or container.directory, LOG)
        self.stage = container.path("stage")
        self.root = f"{self.stage}/root"
        self.staged_images = f"{self.stage}/images"
        self.cgroup = cgroup(container, bundle, checkpoint)
        self.ids = _write_inventory(self.images, self.inventory)
        self.own = {k for k, own in self.ids["own"].items() if own != self.ids["root"].get(k)}
        self.sources = self._sources()
        # Root's container with ids that are nobody's on the node, for whom root's files and directories are closed.
        self.estranged = os.geteuid() == 0 and self.own_ids
        if self.estranged and asked.fields.get("lazy_pages"):
            raise ShimError("a container with a user namespace can't fetch its memory", "leave out --lazy-pages")

    @property
    def shell_job(self) -> bool:
        """Whether the container had a terminal of somebody else's, and is to have ours."""
        return bool(self.asked.fields.get("shell_job"))

    @property
    def own_ids(self) -> bool:
        """Whether the container has a user namespace of its own."""
        return "user_ns_id" in self.own

    @property
    def joined(self) -> dict[str, int]:
        """{path: clone flag} of the namespaces that config.json names by their path."""
        named = self.bundle.namespaces
        return {named[name]: flag for name, flag in OUTSIDE.values() if named.get(name)}

    @property
    def flags(self) -> int:
        """The namespaces to unshare besides the user namespace."""
        flags = linux.CLONE_NEWNS | (linux.CLONE_NEWTIME if self.manifest["clock"] else 0)
        for key in self.own.intersection(OUTSIDE):
            flags |= OUTSIDE[key][1]
        for flag in self.joined.values():
            flags &= ~flag
        return flags

    @property
    def bases(self) -> dict[str, str]:
        """{mount point: path on the node} of the container's files that stay on the node when it ends."""
        entries = zip(self.manifest["external"], self.sources, strict=True)
        return {"/": self.bundle.rootfs, **{entry["key"]: source.path for entry, source in entries}}

    @property
    def personality(self) -> int:
        """The init's: CRIU 4.2 writes each process's down, but does not restore any."""
        return int(self._init()["personality"])

    @property
    def limits(self) -> list[int]:
        """The init's hard limits, by their number (getrlimit(2)); -1 where there is none."""
        limits = [int(limit["max"]) for limit in self._init()["rlimits"]["rlimits"]]
        return [-1 if limit == (1 << 64) - 1 else limit for limit in limits]

    def _init(self) -> dict[str, Any]:
        image = criu.load_image(os.path.join(self.images, "core-1.img"))
        found: dict[str, Any] = image["entries"][0]["tc"]
        return found

    def names(self) -> tuple[str, str] | None:
        """The host and domain names in the container's own UTS namespace; None where it has none."""
        if not self.flags & linux.CLONE_NEWUTS:
            return None
        image = criu.load_image(os.path.join(self.images, f"utsns-{self.ids['own']['uts_ns_id']}.img"))
        entry = image["entries"][0]
        return str(entry["nodename"]), str(entry["domainname"])

    def options(self) -> dict[str, Any]:
        """CRIU's request: its field names and values (criu's images/rpc.proto)."""
        inherited = [
            {"key": name, "fd": builder.STREAMS + stream}
            for stream, name in enumerate(self.manifest["streams"])
            if name.startswith("pipe:[")
        ]
        return {
            "images_dir_fd": -1,
            "images_dir": self.staged_images,
            "log_to_stderr": True,  # a log file would be written beside the images
            "log_level": 2,
            "root": self.root,
            "external": [source.external for source in self.sources],
            "inherit_fd": inherited,
            "unprivileged": True,
            "rst_sibling": True,
            "manage_cgroups_mode": "IGNORE",
            "network_lock": "SKIP",
            "file_locks": True,
            "link_remap": True,
            "orphan_pts_master": not self.shell_job,
            "notify_scripts": True,
            **({"config_file": f"{self.stage}/{builder.CONFIGURATION}"} if self.asked.work else {}),
            **self.asked.fields,
        }

    def _sources(self) -> list[Source]:
        node = mounts.read()
        found = []
        for number, entry in enumerate(self.manifest["external"]):
            staged, device = f"{self.stage}/{number}", None
            if entry["kind"] == "node":
                path, device = f"{staged}.node", self.bundle.device(entry["key"])
            else:
                path = _source(entry, self.bundle, node, self.cgroup)
            if os.geteuid():
                _check_source(entry, path, node)
            found.append(Source(entry, path, staged, device))
        return found


def pending_input(checkpoint: Checkpoint) -> bytes:
    """What the container had not read yet of its standard input; ShimError where the manifest garbles it."""
    try:
        return base64.b64decode(checkpoint.manifest["input"], validate=True)
    except ValueError as error:
        raise ShimError(f"{checkpoint.path}: manifest.json: input: {error}") from None


def start(
    container: Container,
    bundle: Bundle,
    checkpoint: Checkpoint,
    stdio: Stdio | Streams,
    log: Log | None = None,
    asked: Asked | None = None,
    cut: str | None = None,
) -> int:
    """Restore `checkpoint` as `container`: the pid of its init, a child of ours. Files that have grown since are cut
    back where `cut` is a directory for what is cut off.

    Raises ShimError, with CRIU's own words, where that fails; nothing of it is running then. Misfit: it is this node
    that can't.
    """
    log = log or Log()

    def attempt(found: Checkpoint) -> tuple[int, int | None]:
        verification = Verification(found)
        check_restorable(bundle)
        fit.check(found.manifest, bundle)
        if os.path.exists(container.path("stage")):
            undo(container, cgroup(container, bundle, found))  # an attempt before
        with Unpacked(found, container.path(f"stage.{os.getpid()}")) as raw:
            os.mkdir(container.path("stage"), 0o700)
            return _restore(Plan(container, bundle, raw, asked or Asked()), verification, cut, stdio, log)

    pid, terminal = store.steadily(checkpoint, attempt)
    if terminal is not None:
        _attach(stdio, terminal, pid)
    for warning in hooks.warnings(bundle.hooks, "poststart", container.state("running", pid)):
        log.error(warning)
    return pid


def _restore(
    plan: Plan, verification: Verification, cut: str | None, stdio: Stdio | Streams, log: Log
) -> tuple[int, int | None]:
    """The pid of the init, and the master of its terminal, if it has one."""
    linux.become_subreaper()
    mounts.make_points(plan.bundle.mounts, plan.bundle.path, plan.bundle.rootfs)
    rollback = Rollback(verification.checkpoint, cut, plan.bases, log) if cut else None
    steps = _Steps(plan.container, plan.bundle, verification, rollback)
    swrk = builder.start(plan, stdio)
    try:
        verification.start()
        response = swrk.request("RESTORE", plan.options(), steps.notified)
        if not response.success and not steps.refused:
            verification.require()  # it tells more than CRIU does
    finally:
        verification.stop()
        swrk.close()
    if steps.refused:
        raise steps.refused
    if not response.success:
        raise _failure(plan, response)
    if not verification.complete:
        log.event(f"{verification.checkpoint.path} was not verified: it has no checksums of its memory")
    return int(response.restore.pid), swrk.terminal


def _attach(stdio: Stdio | Streams, terminal: int, pid: int) -> None:
    """Give a terminal to whoever copies it; without one, the container is ended."""
    try:
        stdio.attach(terminal)
    except (ShimError, OSError):
        os.kill(pid, signal.SIGKILL)
        raise


class _Steps:
    """Runs the hooks of a start at the moments of the restore that are theirs, and lets no process run whose memory is
    not what was dumped."""

    def __init__(
        self, container: Container, bundle: Bundle, verification: Verification, rollback: Rollback | None
    ) -> None:
        self.container = container
        self.hooks = bundle.hooks
        self.verification = verification
        self.rollback = rollback
        self.refused: ShimError | None = None

    def notified(self, event: str, pid: int) -> bool:
        """Answer CRIU's event; where it is refused, CRIU ends all that it has restored."""
        try:
            if event == AT_RESTORED or (event == AT_NAMESPACES and (self.hooks or self.rollback)):
                self.verification.require()
            if event == AT_NAMESPACES:
                state = self.container.state("creating", pid)
                hooks.run(self.hooks, "prestart", state)
                hooks.run(self.hooks, "createRuntime", state)
                hooks.run(self.hooks, "createContainer", state, inside=pid)
                if self.rollback:
                    self.rollback.run()  # no file of the container's has been opened yet
            elif event == AT_RESTORED:
                state = self.container.state("created", pid)
                hooks.run(self.hooks, "startContainer", state, inside=pid)
        except ShimError as error:
            self.refused = error
            return False
        return True


def _write_inventory(images: str, path: str) -> dict[str, dict[str, int]]:
    """Write an inventory that takes the namespaces made here for CRIU's own; the ids in both.

    It is mounted over the checkpoint's, which stays as it is. (A directory of links to the images
    would not do: CRIU opens some of them when it is in the container's mount namespace already.)
    """
    inventory = criu.load_image(os.path.join(images, builder.INVENTORY))
    own = criu.load_image(os.path.join(images, "ids-1.img"))["entries"][0]
    root = inventory["entries"][0]["root_ids"]
    before = dict(root)
    for key in ("user_ns_id", "time_ns_id", *OUTSIDE):
        if key in own:
            root[key] = own[key]
    criu.dump_image(path, inventory)
    return {"own": own, "root": before}


def _source(entry: Mapping[str, Any], bundle: Bundle, node: Iterable[mounts.Mount], group: str) -> str:
    """Where an external mount comes from on this node; ShimError where it is missing."""
    if entry["kind"] == "device":
        source: str | None = "/dev" + entry["root"]
    elif entry["kind"] == "cgroup":
        source = _control_group(entry["controllers"], node, group)
    elif entry["kind"] in ("sysfs", "mqueue"):
        source = mounts.node_source(entry["kind"], entry["root"], node)
    else:
        source = mounts.bind_source(entry["key"], bundle.mounts, bundle.path, bundle.rootfs)
    if source is None and entry["kind"] == "bind":
        raise ShimError(f"the container's mount {entry['key']} has no source in config.json", "use the same bundle")
    if source is None or not (os.path.exists(source) or entry["kind"] == "cgroup"):
        raise Misfit(
            f"the container's mount {entry['key']} has no source here: {source or 'no such file system'}",
            "the node needs the same files and devices as the one that was checkpointed",
        )
    return source


def _check_source(entry: Mapping[str, Any], path: str, node: Iterable[mounts.Mount]) -> None:
    """Raise ShimError where the kernel would not let a user mount `path` as the container had it."""
    missing = mounts.locked(path, node) & ~mounts.flags(entry["options"])
    if missing:
        raise Misfit(
            f"the container's mount {entry['key']} was not {' '.join(mounts.names(missing))}, and {path} is, here",
            "mount it alike on all nodes",
        )
    if entry["kind"] in ("bind", "sysfs"):
        mounts.require_none_below(entry["key"], path, node)


def _control_group(controllers: str, node: Iterable[mounts.Mount], group: str) -> str | None:
    """The directory of the control group `group`, or else this process's own, in the hierarchy of
    `controllers` ("" is version 2)."""
    for mount in node:
        if mount.kind in ("cgroup", "cgroup2") and mount.controllers == controllers:
            path = mount.point + (group or groups.of("self").get(controllers, ""))
            return path if group or os.path.exists(path) else mount.point
    return None


def seccomp(bundle: Bundle, checkpoint: Checkpoint) -> bytes:
    """The filter that config.json's seccomp is for the kernel, as the init had it; empty where it has none.

    It is the oldest of the init's: the backend set it before the program could add any.
    """
    if not bundle.config.get("linux", {}).get("seccomp"):
        return b""
    core = criu.load_image(os.path.join(checkpoint.images, "core-1.img"))["entries"][0]
    number = core["thread_core"].get("seccomp_filter")
    if number is None:
        return b""
    filters = criu.load_image(os.path.join(checkpoint.images, "seccomp.img"))["entries"][0]["seccomp_filters"]
    while "prev" in filters[number]:
        number = filters[number]["prev"]
    return base64.b64decode(filters[number]["filter"])


def cgroup(container: Container, bundle: Bundle, checkpoint: Checkpoint) -> str:
    """The control group that the container is to have for itself, as the one before had; else empty."""
    return groups.path_of(container, bundle) if checkpoint.manifest.get("own_cgroup") else ""


def _failure(plan: Plan, response: Any) -> ShimError:
    lines = criu.errors(plan.log)
    said = " | ".join(lines) or response.cr_errmsg or f"error {response.cr_errno}"
    hint = criu.meaning(lines) or fit.changed(plan.manifest, plan.bundle)
    return NotRestored(f"CRIU could not restore {plan.container.name}: {said}", hint)


def undo(container: Container, group: str) -> None:
    """Remove what a failed start() left in the container's directory, but for CRIU's log, and its control group."""
    files.remove_if_there(container.path(builder.INVENTORY))
    try:
        os.rmdir(container.path("stage"))
    except FileNotFoundError:
        pass
    if group:
        groups.remove(group)
