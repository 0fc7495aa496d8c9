"""What runc's and crun's options of `checkpoint` and `restore` ask CRIU for; what can't be had is refused at once."""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_criu_shim.bundle import Bundle
    from oci_criu_shim.cli import Invocation

FLAGS = ("tcp-established", "ext-unix-sk", "shell-job")
CGROUP_MODES = ("ignore", "soft", "full", "strict")
LOCKS = {"iptables": "IPTABLES", "nftables": "NFTABLES", "skip": "SKIP"}
REFUSED = {
    "page-server": "a checkpoint goes to files here, not to a page server",
    "lazy-pages": "a restore reads all memory before the container runs again",
}


def dump(call: Invocation, bundle: Bundle, backend: str) -> dict[str, Any]:
    """The options of the worker's request (worker.check())."""
    _refuse(call)
    if call.flag("pre-dump") or call.value("parent-path"):
        _refuse_pre_dump()
    asked: dict[str, Any] = {"leave_running": call.flag("leave-running")}
    if os.geteuid():
        _require_root(call)
        return asked
    asked["network"] = "joined" if bundle.namespaces.get("network") else "dumped"
    asked["for"] = "runc" if backend == "runc" else "crun"  # who else is to understand the images
    return asked | _common(call)


def restore(call: Invocation) -> dict[str, Any]:
    """Fields of CRIU's request (criu's images/rpc.proto)."""
    _refuse(call)
    if os.geteuid():
        _require_root(call)
        return {}
    asked = _common(call)
    if call.flag("tcp-close"):
        asked["tcp_close"] = True
    for name in ("lsm-profile", "lsm-mount-context"):
        if value := call.value(name):
            asked[name.replace("-", "_")] = value
    return asked


def _common(call: Invocation) -> dict[str, Any]:
    asked: dict[str, Any] = {name.replace("-", "_"): True for name in FLAGS if call.flag(name)}
    lock = call.value("network-lock")
    if lock is not None and lock not in LOCKS:
        raise ShimError(f"--network-lock is {', '.join(LOCKS)}, not {lock!r}")
    if lock or call.flag("tcp-established"):
        asked["network_lock"] = LOCKS[lock or "nftables"]
    return asked


def _refuse(call: Invocation) -> None:
    for name, reason in REFUSED.items():
        if call.flag(name):
            raise ShimError(f"--{name}: {reason}", "leave it out")
    mode = call.value("manage-cgroups-mode")
    if mode is not None and mode not in CGROUP_MODES:
        raise ShimError(f"--manage-cgroups-mode is {', '.join(CGROUP_MODES)}, not {mode!r}")


def _refuse_pre_dump() -> None:
    from oci_criu_shim import criu, process

    log = os.open("/dev/null", os.O_WRONLY)
    swrk = criu.start(process.ENVIRONMENT, log)
    try:
        tracked = swrk.features("mem_track")["mem_track"]
    finally:
        swrk.close()
        os.close(log)
    if not tracked:
        raise ShimError("a pre-dump needs a kernel that tracks what memory is written (soft-dirty): this one doesn't")
    raise ShimError("pre-dumps are not made yet", "take a whole checkpoint: leave out --pre-dump and --parent-path")


def _require_root(call: Invocation) -> None:
    """A user's dump and restore have no right to what these options are about."""
    for name in (*FLAGS, "tcp-close"):
        if call.flag(name):
            raise ShimError(f"--{name} is for root's containers only", "leave it out")
