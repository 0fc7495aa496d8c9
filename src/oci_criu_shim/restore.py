"""Starting a container from a checkpoint, without any privilege.

What CRIU could only rebuild with privilege is made before it starts: user, network, UTS, control
group and time namespaces, the last with offsets so that the clocks go on. CRIU then restores inside
of them, and the images' inventory is told that they are its own.
"""

from __future__ import annotations

import base64
import os
import socket

from oci_criu_shim import clocks, criu, files, linux, mounts, process
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from oci_criu_shim.bundle import Bundle
    from oci_criu_shim.checkpoints.store import Checkpoint
    from oci_criu_shim.container import Container
    from oci_criu_shim.stdio import Stdio

INVENTORY = "inventory.img"
LOG = "restore.log"
OUTSIDE = {  # namespaces made before CRIU starts, by their name in CRIU's images
    "net_ns_id": linux.CLONE_NEWNET,
    "uts_ns_id": linux.CLONE_NEWUTS,
    "cgroup_ns_id": linux.CLONE_NEWCGROUP,
}
CONNECTION, STREAMS = 3, 4  # CRIU's descriptors: the connection, then the three pipes
ENVIRONMENT = {"PATH": process.PATH, "LANG": "C.UTF-8"}


class Plan:
    """All that is known before anything is made."""

    def __init__(self, container: Container, bundle: Bundle, checkpoint: Checkpoint) -> None:
        self.container = container
        self.bundle = bundle
        self.manifest = checkpoint.manifest
        self.images = checkpoint.images
        self.inventory = container.path(INVENTORY)
        self.log = container.path(LOG)
        self.root = container.path("root")
        self.ids = _write_inventory(self.images, self.inventory)
        self.own = {k for k, own in self.ids["own"].items() if own != self.ids["root"].get(k)}
        self.external = [
            f"mnt[{entry['key']}]:{_source(entry, bundle)}" for entry in self.manifest["external"]
        ]

    @property
    def rootless(self) -> bool:
        """Whether the container has a user namespace of its own; root's have none."""
        return "user_ns_id" in self.own

    @property
    def flags(self) -> int:
        """The namespaces to unshare besides the user namespace."""
        flags = linux.CLONE_NEWNS | linux.CLONE_NEWTIME
        for key in self.own.intersection(OUTSIDE):
            flags |= OUTSIDE[key]
        return flags

    def hostname(self) -> str | None:
        """The name the container's host had; None where it had the node's."""
        if "uts_ns_id" not in self.own:
            return None
        image = criu.load_image(os.path.join(self.images, f"utsns-{self.ids['own']['uts_ns_id']}.img"))
        return str(image["entries"][0]["nodename"])

    def options(self) -> dict[str, Any]:
        """CRIU's request: its field names and values (criu's images/rpc.proto)."""
        inherited = [
            {"key": name, "fd": STREAMS + stream}
            for stream, name in enumerate(self.manifest["streams"])
            if name.startswith("pipe:[")
        ]
        return {
            "images_dir_fd": -1,
            "images_dir": self.images,
            "log_to_stderr": True,  # a log file would be written beside the images
            "log_level": 2,
            "root": self.root,
            "external": self.external,
            "inherit_fd": inherited,
            "unprivileged": True,
            "rst_sibling": True,
            "manage_cgroups_mode": "IGNORE",
            "network_lock": "SKIP",
            "file_locks": True,
            "link_remap": True,
        }


def pending_input(checkpoint: Checkpoint) -> bytes:
    """What the container had not read yet of its standard input."""
    return base64.b64decode(checkpoint.manifest["input"])


def start(container: Container, bundle: Bundle, checkpoint: Checkpoint, stdio: Stdio) -> int:
    """Restore `checkpoint` as `container`: the pid of its init, a child of ours.

    Raises ShimError, with CRIU's own words, where that fails; nothing of it is running then.
    """
    linux.become_subreaper()
    os.mkdir(container.path("root"), 0o700)
    plan = Plan(container, bundle, checkpoint)
    swrk = _start_criu(plan, stdio)
    try:
        response = swrk.request("RESTORE", plan.options())
    finally:
        swrk.close()
    if not response.success:
        raise _failure(plan, response)
    return int(response.restore.pid)


def _write_inventory(images: str, path: str) -> dict[str, dict[str, int]]:
    """Write an inventory that takes the namespaces made here for CRIU's own; the ids in both.

    It is mounted over the checkpoint's, which stays as it is. (A directory of links to the images
    would not do: CRIU opens some of them when it is in the container's mount namespace already.)
    """
    inventory = criu.load_image(os.path.join(images, INVENTORY))
    own = criu.load_image(os.path.join(images, "ids-1.img"))["entries"][0]
    root = inventory["entries"][0]["root_ids"]
    before = dict(root)
    for key in ("user_ns_id", "time_ns_id", *OUTSIDE):
        if key in own:
            root[key] = own[key]
    criu.dump_image(path, inventory)
    return {"own": own, "root": before}


def _source(entry: Mapping[str, Any], bundle: Bundle) -> str:
    """Where an external mount comes from on this node; ShimError where it is missing."""
    if entry["kind"] == "device":
        source: str | None = "/dev" + entry["root"]
    elif entry["kind"] == "cgroup":
        source = _control_group(entry["controllers"])
    else:
        source = mounts.bind_source(entry["key"], bundle.mounts, bundle.path, bundle.rootfs)
    if source is None or not os.path.exists(source):
        raise ShimError(
            f"the container's mount {entry['key']} has no source here: {source or 'not in config.json'}",
            "the node needs the same files and devices as the one that was checkpointed",
        )
    return source


def _control_group(controllers: str) -> str | None:
    """This process's control group directory in the hierarchy of `controllers` ("" is version 2)."""
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in stream)
    for mount in mounts.read():
        if mount.kind in ("cgroup", "cgroup2") and mount.controllers == controllers:
            path = mount.point + groups.get(controllers, "")
            return path if os.path.exists(path) else mount.point
    return None


def _start_criu(plan: Plan, stdio: Stdio) -> criu.Swrk:
    """`criu swrk` inside the new namespaces, a child of ours."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    fds = {CONNECTION: theirs.fileno(), 2: log}
    fds |= {STREAMS + stream: end for stream, end in stdio.inside.items()}
    ready, go, pids = os.pipe(), os.pipe(), os.pipe()

    def build() -> int:
        os.close(ours.fileno())  # or CRIU would never see us go
        os.close(go[1])
        _build(plan, fds, ready[1], go[0], pids[1])
        return 0

    builder = process.fork(build)
    theirs.close()
    for end in (log, ready[1], go[0], pids[1]):
        os.close(end)
    try:
        if os.read(ready[0], 1):
            _map_ids(builder, plan.manifest["uid_map"], plan.manifest["gid_map"])
            os.write(go[1], b"g")
        text = os.read(pids[0], 32)
        if process.wait(builder) or not text:
            raise ShimError("cannot make the container's namespaces", _namespace_hint())
    finally:
        for end in (ready[0], go[1], pids[0]):
            os.close(end)
    return criu.Swrk(ours, int(text))


def _build(plan: Plan, fds: Mapping[int, int], ready: int, go: int, pids: int) -> None:
    """In the builder: the namespaces, then a child in all of them (only children enter a new time
    namespace), which becomes CRIU."""
    os.setsid()
    if plan.rootless:
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(ready, b"r")
        if not os.read(go, 1):
            raise ShimError("no ids were mapped")
    os.close(ready)
    hostname = plan.hostname()
    linux.unshare(plan.flags)
    _set_clocks(plan.manifest["clock"])
    if hostname is not None:
        socket.sethostname(hostname)
    if "net_ns_id" in plan.own:
        linux.link_up("lo")
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(plan.bundle.rootfs, plan.root, None, linux.MS_BIND)
    linux.mount(plan.inventory, os.path.join(plan.images, INVENTORY), None, linux.MS_BIND)
    argv = [criu.program(), "swrk", str(CONNECTION)]
    pid = process.fork(lambda: process.become(argv, ENVIRONMENT, fds))
    os.write(pids, str(pid).encode())


def _set_clocks(values: Mapping[str, int]) -> None:
    """Make the time namespace that children will enter go on where the container's stopped."""
    wanted = clocks.going_on(values, clocks.offsets())
    with open("/proc/self/timens_offsets", "w", encoding="ascii") as stream:
        stream.write(clocks.lines(wanted))


def _map_ids(pid: int, uids: list[list[int]], gids: list[list[int]]) -> None:
    """Give `pid`'s user namespace the mappings ([inside, outside, count] each) the container had."""
    if uids == [[uids[0][0], os.geteuid(), 1]] and gids == [[gids[0][0], os.getegid(), 1]]:
        _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", f"{uids[0][0]} {uids[0][1]} 1")
        _write(f"/proc/{pid}/gid_map", f"{gids[0][0]} {gids[0][1]} 1")
        return
    for program, ranges in (("newuidmap", uids), ("newgidmap", gids)):
        path = process.find(program)
        if path is None:
            raise ShimError(f"the container maps ranges of ids, and there is no {program}", "install uidmap")
        numbers = [str(number) for triple in ranges for number in triple]
        status, text = process.output([path, str(pid), *numbers], ENVIRONMENT)
        if status:
            raise ShimError(text.strip() or f"{program} failed", "see /etc/subuid and /etc/subgid")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)


def _namespace_hint() -> str:
    return "are unprivileged user namespaces allowed on this node? (user.max_user_namespaces)"


def _failure(plan: Plan, response: Any) -> ShimError:
    lines = criu.errors(plan.log)
    said = " | ".join(lines) or response.cr_errmsg or f"error {response.cr_errno}"
    return ShimError(f"CRIU could not restore {plan.container.name}: {said}", criu.meaning(lines))


def undo(container: Container) -> None:
    """Remove what a failed start() left in the container's directory."""
    for name in (INVENTORY, LOG):
        files.remove_if_there(container.path(name))
    try:
        os.rmdir(container.path("root"))
    except FileNotFoundError:
        pass
