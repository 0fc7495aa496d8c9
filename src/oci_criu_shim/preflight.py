"""What can be told before anything is frozen: that a checkpoint could not be taken, or never restored."""

from __future__ import annotations

import os

from oci_criu_shim import bundle as bundles
from oci_criu_shim import mounts
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from oci_criu_shim.bundle import Bundle
    from oci_criu_shim.mounts import Mount


def check(pid: int, bundle: Bundle) -> None:
    """Raise ShimError where the container of init `pid` can't be checkpointed as it is now."""
    bundles.check_checkpointable(bundle)
    _require_running(pid)
    node, inside = mounts.read(), mounts.read(pid)
    _require_own_sharing(inside, node)
    if os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:
        _require_single_binds(bundle, mounts.external(inside, node), node)


def _require_single_binds(bundle: Bundle, external: list[dict[str, str]], node: Iterable[Mount]) -> None:
    for entry in external:
        if entry["kind"] == "bind":
            source = mounts.bind_source(entry["key"], bundle.mounts, bundle.path, bundle.rootfs)
            if source is not None:
                mounts.require_none_below(entry["key"], source, node)


def _require_own_sharing(inside: Iterable[Mount], node: Iterable[Mount]) -> None:
    """A mount in a peer group of the node's would come back in a group of its own."""
    theirs = {mount.shared for mount in node if mount.shared}
    for mount in inside:
        if mount.shared in theirs:
            raise ShimError(
                f"what is mounted below {mount.point} is seen on the node as well (rshared), which a restore"
                " can't bring back",
                "use rslave or rprivate in the mount's options",
            )


def _require_running(pid: int) -> None:
    """CRIU waits for ever for processes that a control group keeps frozen."""
    groups = {}
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            groups[controllers] = path
    for mount in mounts.read():
        if mount.kind in ("cgroup", "cgroup2") and mount.controllers in groups:
            directory = mount.point + groups[mount.controllers]
            if _says(directory, "freezer.state", "FROZEN") or _says(directory, "cgroup.events", "frozen 1"):
                raise ShimError("the container is paused", "resume it first")


def _says(directory: str, name: str, line: str) -> bool:
    try:
        with open(os.path.join(directory, name), encoding="ascii") as stream:
            return line in stream.read().splitlines()
    except OSError:
        return False  # no such group here, or no such controller
