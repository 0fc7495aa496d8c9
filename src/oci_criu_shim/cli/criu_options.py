"""Translate runc's and crun's options of `checkpoint` and `restore` into what CRIU is asked for.

What can't be had is refused at once.
"""

from __future__ import annotations

import fcntl
import os

from oci_criu_shim import units
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.criu_config import Settings
    from oci_criu_shim.files import Document

FLAGS = ("tcp-established", "ext-unix-sk", "shell-job", "lazy-pages")
NUMBERS = {"timeout": "timeout", "verbosity": "log_level"}  # {CRIU's option: field of its request}
PIPE = 1 << 22  # bytes: what CRIU asks for (PIPE_MAX_SIZE in criu/include/page-pipe.h), as a power of two


def dump(call: Invocation, bundle: Bundle, dialect: str, configured: Settings) -> Document:
    """Return the options of the request to the worker, of its closed set (privileged/worker.py, check()).

    `configured` is what CRIU's configuration file asks for, to which the command line adds.
    """
    if call.flag("auto-dedup") and call.flag("parent-path"):
        raise ShimError("--auto-dedup would take from --parent-path what the new dump has, too", "leave it out")
    asked: Document = {"leave_running": call.flag("leave-running")}
    if os.geteuid():
        _require_root(call)
        return asked
    if process.in_a_user_namespace():
        raise ShimError("root of a user namespace has no right to a dump", "ask the node's root, or use a Slurm job")
    asked |= _page_server(call)
    pre_dump, incremental = call.flag("pre-dump"), bool(call.value("parent-path"))
    if pre_dump or incremental:
        asked |= {"track_mem": True, "pre_dump": pre_dump, "incremental": incremental}
    asked["network"] = "joined" if bundle.namespaces.get("network") else "dumped"
    if call.flag("empty-ns"):
        asked["empty_ns"] = linux.CLONE_NEWNET
    asked["for"] = dialect  # the runtime that must understand the images as well
    if "ghost-limit" in configured:
        asked["ghost_limit"] = units.parse_size(configured["ghost-limit"])
    return asked | _common(call, configured)


def restore(call: Invocation, configured: Settings) -> Document:
    """Return fields of CRIU's request (criu's images/rpc.proto); `configured` is as for dump()."""
    asked: Document = {}
    if ":" not in (call.value("lsm-profile") or ":"):
        raise ShimError(f"--lsm-profile is TYPE:NAME, not {call.value('lsm-profile')!r}")
    for name in ("lsm-profile", "lsm-mount-context"):
        if value := call.value(name) or configured.get(name):
            asked[name.replace("-", "_")] = value
    if os.geteuid():
        _require_root(call)
        return asked
    if call.flag("tcp-close") or "tcp-close" in configured:
        asked["tcp_close"] = True
    return asked | _common(call, configured)


def _common(call: Invocation, configured: Settings) -> Document:
    asked: Document = {name.replace("-", "_"): True for name in FLAGS if call.flag(name) or name in configured}
    lock = call.value("network-lock") or configured.get("network-lock")
    if lock or "tcp_established" in asked:
        asked["network_lock"] = (lock or "nftables").upper()
    for name, field in NUMBERS.items():
        if name in configured:
            asked[field] = int(configured[name])
    return asked


def _page_server(call: Invocation) -> Document:
    """Return the address that memory is sent to instead of files or, with --lazy-pages, handed out at."""
    server = call.value("page-server")
    if server is None:
        if call.flag("lazy-pages"):
            raise ShimError("--lazy-pages needs a port to hand memory out at", "add --page-server 0.0.0.0:PORT")
        return {}
    address, _, port = server.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ShimError(f"--page-server is ADDRESS:PORT, not {server!r}")
    if call.flag("lazy-pages"):
        _require_large_pipes()
    return {"page_server": [address.strip("[]"), int(port)]}


def _require_large_pipes() -> None:
    """Raise ShimError if pipes can't be as large as CRIU needs them to hand memory out.

    CRIU itself would find out only when the memory is asked for.
    """
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE)
    except PermissionError:
        raise ShimError(
            f"--lazy-pages needs pipes of {PIPE >> 20} MiB, which this root may not make",
            f"grant it CAP_SYS_RESOURCE, or set sysctl fs.pipe-max-size to {PIPE}",
        ) from None
    finally:
        os.close(reader)
        os.close(writer)


def serves(call: Invocation) -> Callable[[], None]:
    """Return what tells the caller that memory can be asked for: it writes a null byte to --status-fd."""
    text = call.value("status-fd")
    if text is None:
        return lambda: None
    try:
        descriptor = os.dup(int(text))
    except (ValueError, OSError):
        raise ShimError(f"--status-fd is the number of an open descriptor, not {text!r}") from None

    def tell() -> None:
        with open(descriptor, "wb") as stream:
            stream.write(b"\0")

    return tell


def _require_root(call: Invocation) -> None:
    """Raise ShimError if an option needs rights that a user's dump and restore don't have.

    A user's worker makes no pre-dump (privileged/worker.py), so there is none to build upon.
    """
    for name in (*FLAGS, "tcp-close", "page-server", "pre-dump", "parent-path"):
        if call.flag(name):
            raise ShimError(f"--{name} is for root's containers only", "leave it out")
