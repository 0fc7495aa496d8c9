"""Resource limits (getrlimit(2)): those that processes have, and those that a restore can't give back here.

An ordinary user can raise no hard limit. If a process had a higher one, CRIU 4.2 leaves both of its limits at those
that CRIU itself has, without a word (restore_rlims() in criu/pie/restorer.c).
"""

from __future__ import annotations

import os

from oci_criu_shim.errors import Misfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oci_criu_shim.checkpoints.manifest import Needs
    from oci_criu_shim.files import Document

INFINITY = (1 << 64) - 1  # in CRIU's images; in Python and in manifests it is -1
# In the order of their numbers.
NAMES = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING"),
    *("MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
# Linux heeds two of them no more. Those of a node's size, and that of core files, may well differ among nodes.
IGNORED = ("RSS", "LOCKS")
MINOR = ("CORE", "NPROC", "SIGPENDING")


def highest(pids: Iterable[int]) -> dict[str, list[int]]:
    """Return {name: [highest soft limit, highest hard limit]} of the processes that there still are."""
    import resource

    found: dict[str, list[int]] = {}
    for pid in pids:
        try:
            limits = [resource.prlimit(pid, number) for number in range(len(NAMES))]
        except (ProcessLookupError, PermissionError):
            continue
        for name, here in zip(NAMES, limits, strict=True):
            found[name] = [max(pair, key=_unsigned) for pair in zip(here, found.get(name, here), strict=True)]
    return found


def _unsigned(limit: int) -> int:
    return limit if limit != -1 else INFINITY


def _here() -> dict[str, int]:
    """Return {name: hard limit} of this process."""
    import resource

    return {name: resource.getrlimit(number)[1] for number, name in enumerate(NAMES)}


def _lowered(needed: Needs) -> Iterator[tuple[str, int, int, int]]:
    """Yield (name, soft limit, hard limit, hard limit here) of those that an ordinary user can't give back."""
    noted = needed.get("limits", {}) if os.geteuid() else {}
    here = _here() if noted else {}
    for name, (soft, hard, *_) in noted.items():
        if name not in IGNORED and _unsigned(hard) > _unsigned(here.get(name, -1)):
            yield name, soft, hard, here[name]


def check(needed: Needs) -> None:
    """Raise Misfit if a limit that was in force would be lower here."""
    for name, soft, _, here in _lowered(needed):
        if name not in MINOR and _unsigned(soft) > _unsigned(here):
            raise Misfit(
                f"a process had the limit RLIMIT_{name} of {_said(soft)}, and no more than {here} is allowed here",
                "give slurmd the same limits on all nodes: the settings Limit… of its unit (systemd.exec(5))",
            )


def differences(needed: Needs) -> Iterator[str]:
    """Yield in words which limits are lower here."""
    found = [f"RLIMIT_{name} {here} (was {_said(hard)})" for name, _, hard, here in _lowered(needed)]
    if found:
        yield f"limits can't be raised as far as before here: {', '.join(found)}"


def _said(limit: int) -> str:
    return str(limit) if limit != -1 else "unlimited"


def lower(needed: Needs, core: Document) -> bool:
    """Lower the limits in one of CRIU's images of a process to what is allowed here; return whether any was higher.

    Its soft limits then come back as far as they can.
    """
    rows = core["entries"][0].get("tc", {}).get("rlimits", {}).get("rlimits", [])
    bounds = {name: here for name, _, _, here in _lowered(needed)}
    found = False
    for name, row in zip(NAMES, rows, strict=False):
        if name in bounds and int(row["max"]) > bounds[name]:
            row["max"], row["cur"] = bounds[name], min(int(row["cur"]), bounds[name])
            found = True
    return found


def are_lower(needed: Needs) -> bool:
    """Return whether any limit is."""
    return any(_lowered(needed))
