"""Plan the restore of a checkpoint on this node, or refuse it, before anything is made."""

from __future__ import annotations

import os

from oci_criu_shim.checkpoints.committed import LAYER, OWN
from oci_criu_shim.container import batch_script, cgroup_path, limits
from oci_criu_shim.container.record import RESTORE_LOG, STAGE
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import criu, criu_images, ids, linux, mounts
from oci_criu_shim.restore import bare, ipc, sockets, sources
from oci_criu_shim.restore.edits import Edits
from oci_criu_shim.restore.node_files import NodeFiles
from oci_criu_shim.restore.seccomp import Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.files import Document
    from oci_criu_shim.host.criu import Message

CONFIGURATION = "criu.conf"  # CRIU's own name
UNWATCHED = "unwatched"  # directories on the stage. To who watches one, it is gone when the stage is unmounted
STREAMS = 4  # the first of CRIU's three descriptors that are the container's pipes
PREMADE = {  # {name in CRIU's images: (name in config.json, clone flag)} of namespaces that are made before CRIU starts
    "net_ns_id": ("network", linux.CLONE_NEWNET),
    "uts_ns_id": ("uts", linux.CLONE_NEWUTS),
    "cgroup_ns_id": ("cgroup", linux.CLONE_NEWCGROUP),
}


class Asked:
    """The command line's wishes: `fields` of CRIU's request, a directory `work` for its log and statistics, and
    another place for the `log`."""

    def __init__(
        self, fields: dict[str, object] | None = None, work: str | None = None, log: str | None = None
    ) -> None:
        self.fields = fields or {}
        self.work = os.path.abspath(work) if work else None
        self.log = os.path.abspath(log) if log else None


class RestorePlan:
    """The plan of a restore: everything that is known before anything is made."""

    def __init__(self, container: Container, bundle: Bundle, checkpoint: Checkpoint, asked: Asked) -> None:
        bare.check(bundle.is_bare, checkpoint.manifest)
        self.container = container
        self.asked = asked
        self.bundle = bundle
        self.program = criu.program()
        self.manifest = checkpoint.manifest
        self.images = checkpoint.images
        self.own_files = os.path.join(checkpoint.path, OWN) if OWN in checkpoint.manifest["files"] else ""
        self.log = asked.log or os.path.join(asked.work or container.directory, RESTORE_LOG)
        self.stage = container.path(STAGE)
        self.root = f"{self.stage}/root"
        self.staged_images = f"{self.stage}/images"
        self.images_link = f"{self.stage}/link"  # to them: CRIU before 4.2 takes no directory (criu/cr-service.c)
        self.cgroup = own_cgroup_path(container, bundle, checkpoint)
        self.edits = Edits(self.images, container.directory)
        premade = (*PREMADE, "mnt_ns_id") if bundle.is_bare else PREMADE
        self.ids = self.edits.edit_inventory(("user_ns_id", "time_ns_id", *premade))
        self.own = {k for k, own in self.ids["own"].items() if own != self.ids["root"].get(k)}
        self.seccomp = Seccomp(self.images if self.has_user_namespace else None)
        self.edits.edit_clocks(self.manifest["clock"])
        self.edits.edit_mounts(self._unfollowed())
        self.edits.edit_threads(self.manifest.get("needs"), self.seccomp)
        # Of the container's own IPC namespace; empty if CRIU can set them.
        compared = self.numbers[0] != 0 and "ipc_ns_id" in self.own
        self.ipc_limits = ipc.limits(self.images, self.ids["own"]["ipc_ns_id"]) if compared else {}
        self.mounted = self._mounted()
        self.script = batch_script.move(checkpoint, bundle, container.directory) if bundle.is_bare else ("", "")
        external = [] if bundle.is_bare else self.manifest["external"]
        script = None if bundle.is_bare else batch_script.copy(checkpoint, bundle)
        self.sources = sources.find(external, bundle, container, self.cgroup, script)
        self.bases = self._bases()
        self.keeps_connections = False  # until the open files are known
        self.closed = sockets.Closing(self.manifest.get("closed"))
        self.unwatched: list[str] = []
        self.edits.edit_files(self._change_files)
        # Whether root's container has remapped ids: on the node they can't get at root's files and directories.
        self.remapped = os.geteuid() == 0 and self.has_user_namespace
        if self.remapped and asked.fields.get("lazy_pages"):
            raise ShimError("a container with a user namespace can't fetch its memory", "leave out --lazy-pages")

    @property
    def shell_job(self) -> bool:
        """Whether the container shared another process's terminal, and is to share ours."""
        return bool(self.asked.fields.get("shell_job"))

    @property
    def has_user_namespace(self) -> bool:
        """Whether the container has a user namespace of its own."""
        return "user_ns_id" in self.own

    @property
    def unprivileged(self) -> bool:
        """Whether CRIU runs with the rights of an ordinary user, if only inside of a user namespace."""
        return os.geteuid() != 0 or self.has_user_namespace

    @property
    def numbers(self) -> tuple[int, int]:
        """The ids, user's and group's, that we have in the container's user namespace."""
        return ids.ours(self.manifest["uid_map"], self.manifest["gid_map"])

    @property
    def joined(self) -> dict[str, int]:
        """{path: clone flag} of the namespaces to join, which config.json names by their path."""
        named = self.bundle.namespaces
        return {named[name]: flag for name, flag in PREMADE.values() if named.get(name)}

    @property
    def clone_flags(self) -> int:
        """The clone flags of the namespaces to unshare, other than the user namespace."""
        flags = linux.CLONE_NEWNS | (linux.CLONE_NEWTIME if self.manifest["clock"] else 0)
        for key in self.own.intersection(PREMADE):
            flags |= PREMADE[key][1]
        for flag in self.joined.values():
            flags &= ~flag
        return flags

    def _unfollowed(self) -> set[str]:
        """Return the mount points that CRIU makes, and below which no links are followed.

        crun 1.28 mounts control groups of version 1 so, though config.json does not ask for it.
        """
        if self.bundle.is_bare:
            return set()
        asked = {entry["key"] for entry in self.manifest["external"] if mounts.UNFOLLOWED in entry["options"]}
        return asked | self.bundle.points_with(mounts.UNFOLLOWED)

    def _bases(self) -> dict[str, str]:
        """Return {mount point: path on the node} of the container's files that remain on the node when it ends."""
        if self.bundle.is_bare:
            own = self.manifest["own_places"]
            return {"/": "/", **{e["key"]: e["key"] for e in self.manifest["external"] if e["key"] not in own}}
        entries = zip(self.manifest["external"], self.sources, strict=True)
        outer = {"/": self.bundle.rootfs, **{entry["key"]: source.path for entry, source in entries}}
        return outer | self._inner(outer)

    def _inner(self, outer: dict[str, str]) -> dict[str, str]:
        """Return {mount point: path on the node} of the mounts that CRIU makes from the files of the `outer` ones.

        Raise Misfit if it would not find their sources.
        """
        holders = [entry for entry in self.mounted if entry["mountpoint"] in outer]
        found = {}
        for entry in self.mounted:
            point, root = entry["mountpoint"], entry["root"]
            same = (h for h in holders if h["root_dev"] == entry["root_dev"] and mounts.is_below(root, h["root"]))
            if point in outer or (holder := next(same, None)) is None:
                continue
            base = os.path.realpath(outer[holder["mountpoint"]]).rstrip("/")
            path = base + root[len(holder["root"].rstrip("/")) :]
            # CRIU makes what was removed, for a moment; what is in the layer is not there yet.
            is_there = os.path.lexists(path) or entry.get("deleted") or LAYER in self.manifest["files"]
            if os.path.realpath(path) != path or not is_there:
                said = f"{path}, which a program had mounted at {point}, is missing here, or a link leads there"
                raise Misfit(said, "put it back")
            found[point] = path
        return found

    @property
    def personality(self) -> int:
        """The init's personality(2): CRIU 4.2 saves each process's, but restores none.

        It takes the hexadecimal digits of /proc/PID/personality for decimal ones (get_task_personality() in
        criu/cr-dump.c).
        """
        noted = self.manifest.get("personality")
        return int(str(self._init()["personality"]), 16) if noted is None else noted

    @property
    def limits(self) -> list[int]:
        """The init's hard limits in the order of their numbers (getrlimit(2)); -1 for none."""
        found = [int(limit["max"]) for limit in self._init()["rlimits"]["rlimits"]]
        return [-1 if limit == limits.INFINITY else limit for limit in found]

    @property
    def root_flags(self) -> int:
        """The mount flags that the container's root had."""
        root = next(entry for entry in self.mounted if entry["mountpoint"] == "/")
        return mounts.flags(mounts.names(root["flags"]))

    def make_points(self) -> None:
        """Make the mount points that are missing in the root file system or below a bind's source.

        The container had them when it was created, perhaps on another node. Raise Misfit if one can't be made.
        """
        bases = self.bases
        points = {entry["mnt_id"]: entry["mountpoint"] for entry in self.mounted}
        for entry in self.mounted if not self.bundle.is_bare else ():
            point, parent = entry["mountpoint"], points.get(entry["parent_mnt_id"], "")
            is_known = os.path.exists(bases.get(point, "")) or entry["root"] == "/"
            # Else it is of one of the container's own file systems, or comes with the layer of the root file system.
            if point == "/" or parent not in bases or not is_known:
                continue
            try:
                mounts.make_point(bases[parent], point[len(parent) :], os.path.isdir(bases.get(point, "/")))
            except OSError as error:
                raise Misfit(
                    f"the mount point {point} is missing in {bases[parent]}, and can't be made: {error.strerror}",
                    "make it there, on each node",
                ) from None

    def _mounted(self) -> list[Document]:
        """Return CRIU's entries of the container's mounts."""
        image = criu_images.load(os.path.join(self.images, f"mountpoints-{self.ids['own']['mnt_ns_id']}.img"))
        found: list[Document] = image["entries"]
        return found

    def _init(self) -> Document:
        image = criu_images.load(os.path.join(self.images, "core-1.img"))
        found: Document = image["entries"][0]["tc"]
        return found

    def uts_names(self) -> tuple[str, str] | None:
        """Return the host and domain names in the container's own UTS namespace; None if it has none."""
        if not self.clone_flags & linux.CLONE_NEWUTS:
            return None
        image = criu_images.load(os.path.join(self.images, f"utsns-{self.ids['own']['uts_ns_id']}.img"))
        entry = image["entries"][0]
        return str(entry["nodename"]), str(entry["domainname"])

    def options(self) -> dict[str, object]:
        """Return {field: value} of CRIU's request (criu_opts in criu's images/rpc.proto)."""
        inherited = [
            {"key": name, "fd": STREAMS + stream}
            for stream, name in enumerate(self.manifest["streams"])
            if name.startswith("pipe:[")
        ]
        return {
            "images_dir_fd": -1,
            "images_dir": self.images_link,
            "log_to_stderr": True,  # a log file would be written beside the images
            "log_level": 2,
            # A bare task's mount namespace is made before CRIU starts.
            **({} if self.bundle.is_bare else {"root": self.root}),
            "external": [source.external for source in self.sources],
            "inherit_fd": inherited,
            "unprivileged": self.unprivileged,
            # Mounts are made where createContainer hooks are run. Its other way, mounts-v2, takes privilege.
            "mntns_compat_mode": True,
            "rst_sibling": True,
            "manage_cgroups_mode": "IGNORE",
            "network_lock": "SKIP",
            "file_locks": True,
            "link_remap": True,
            # Access rights may have changed; a file's type, length and build ID are compared all the same.
            "skip_file_rwx_check": True,
            "orphan_pts_master": not self.shell_job,
            "notify_scripts": True,
            **({"tcp_established": True} if self.keeps_connections else {}),
            **({"config_file": f"{self.stage}/{CONFIGURATION}"} if self.asked.work else {}),
            **self.asked.fields,
        }

    def _change_files(self, files: list[Message]) -> bool:
        """Change what can't be on this node as it was; return whether there is anything. Raise Misfit for sockets that
        can't be here at all."""
        found = sockets.Sockets(self.images, files)
        is_nodes = "net_ns_id" not in self.own
        closes_all = bool(self.asked.fields.get("tcp_close"))
        closes = closes_all or bool(os.geteuid() and is_nodes)
        on_node = NodeFiles(self.bases, self.mounted, LAYER in self.manifest["files"])
        changed = [self.closed.change(found, closes, closes_all), found.forget_ended(), on_node.take_modes(files)]
        if self.bundle.is_bare:
            self.unwatched = on_node.move_watches(files, f"{self.stage}/{UNWATCHED}")
            changed += [bool(self.unwatched), bare.find_by_path(files, self.script)]
        if is_nodes:
            changed.append(found.fit(self.manifest.get("node", ""), self.closed.noted.get("unneeded", ())))
        self.keeps_connections = self._keeps_connections(found)
        return any(changed)

    def _keeps_connections(self, found: sockets.Sockets) -> bool:
        """Return whether CRIU is to restore TCP connections: those of a user's own network, those that root asks for,
        and what is left to read of ended ones."""
        fields = self.asked.fields
        asked = os.geteuid() or fields.get("tcp_established") or not found.has_open_connections
        return bool(found.has_connections and asked and not fields.get("tcp_close"))

    @property
    def holds_tcp(self) -> bool:
        """Whether TCP is held up until all connections are restored, in a network that is not the node's."""
        return self.keeps_connections and "net_ns_id" in self.own


def own_cgroup_path(container: Container, bundle: Bundle, checkpoint: Checkpoint) -> str:
    """Return the path of the control group that the container is to have for itself.

    It is empty if the checkpointed container had none of its own.
    """
    return cgroup_path.find(container, bundle) if checkpoint.manifest.get("own_cgroup") else ""
