"""Find on this node what the mounts of a container were made from, or refuse its restore here."""

from __future__ import annotations

import os

from oci_criu_shim.container import backends, batch_script
from oci_criu_shim.container.record import STAGE
from oci_criu_shim.errors import Misfit, ShimError
from oci_criu_shim.host import cgroups, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.files import Document
    from oci_criu_shim.host.external import External


class MountSource:
    """The source of an external mount: `path` on the node is mounted at `staged` with `flags`, for CRIU to find.

    If `device` or `script` is given, it is made at `path` first: an entry of config.json's linux.devices, or a batch
    script from the copy at the path `script`. `external` is the mount as CRIU's option of that name wants it.
    """

    def __init__(
        self,
        entry: External,
        path: str,
        staged: str,
        device: Document | None = None,
        script: str | None = None,
    ) -> None:
        self.path = path
        self.staged = staged
        self.device = device
        self.script = script
        self.flags = mounts.flags(entry["options"])
        self.external = f"mnt[{entry.get('name', entry['key'])}]:{staged}"


def find(
    entries: Iterable[External], bundle: Bundle, container: Container, group: str, script: str | None
) -> list[MountSource]:
    """Return the sources of a container's external mounts, to be mounted on its stage.

    `group` is the path of its own control group, or empty; `script` that of a copy of its batch script, if it has one.
    Raise ShimError if a source is missing, or can't be mounted as the container had it.
    """
    node, place, stage = mounts.read(), batch_script.point(bundle), container.path(STAGE)
    found = []
    for number, entry in enumerate(entries):
        staged, is_script = f"{stage}/{number}", entry["key"] == place
        if is_script and script:
            found.append(MountSource(entry, f"{staged}.node", staged, script=script))
        elif entry["kind"] == "node" and not is_script:
            found.append(MountSource(entry, f"{staged}.node", staged, device=bundle.device(entry["key"])))
        else:
            path = _path(entry, bundle, container, node, group)
            if os.geteuid():
                _check(entry, path, node)
            found.append(MountSource(entry, path, staged))
    return found


def _path(entry: External, bundle: Bundle, container: Container, node: Iterable[mounts.Mount], group: str) -> str:
    """Return the path on this node that an external mount is made from. Raise ShimError if it is missing."""
    if entry["kind"] == "device":
        source: str | None = "/dev" + entry["root"]
    elif entry["kind"] == "cgroup":
        source = _control_group(entry["controllers"], node, group)
    elif entry["kind"] in ("sysfs", "mqueue"):
        source = mounts.node_source(entry["kind"], entry["root"], node)
    else:
        source = bundle.source(entry["key"])
        if source is None and entry["key"] in bundle.masked:
            source = backends.empty_directory(container.root)
    if source is None and entry["kind"] == "bind":
        raise ShimError(f"the container's mount {entry['key']} has no source in config.json", "use the same bundle")
    if source is None or not (os.path.exists(source) or entry["kind"] == "cgroup"):
        raise Misfit(
            f"the container's mount {entry['key']} has no source here: {source or 'no such file system'}",
            "the node needs the same files and devices as the one that was checkpointed",
        )
    return source


def _check(entry: External, path: str, node: Iterable[mounts.Mount]) -> None:
    """Raise ShimError if the kernel would not let a user mount `path` as the container had it."""
    missing = mounts.locked(path, node) & ~mounts.flags(entry["options"])
    if missing:
        raise Misfit(
            f"the container's mount {entry['key']} was not {' '.join(mounts.names(missing))}, and {path} is, here",
            "mount it alike on all nodes",
        )
    if entry["kind"] in ("bind", "sysfs"):
        for fault in mounts.faults_below(entry["key"], path, node):
            raise fault


def _control_group(controllers: str, node: Iterable[mounts.Mount], group: str) -> str | None:
    """Return the directory of a control group in the hierarchy of `controllers`, of which "" is version 2.

    The group is `group`, or this process's own if that is empty.
    """
    for mount in node:
        if mount.kind in ("cgroup", "cgroup2") and mount.controllers == controllers:
            path = mount.point + (group or cgroups.of("self").get(controllers, ""))
            return path if group or os.path.exists(path) else mount.point
    return None
