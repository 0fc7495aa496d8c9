"""Tell whether only root can change a file, and whether all can read it.

Root's programs load such files, or they say what everybody's jobs run.
"""

from __future__ import annotations

import os
import stat

from oci_criu_shim.container import ownership
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process


def require(path: str, why: str) -> None:
    """Raise ShimError if others than root may change a file, or what its name leads to; `why` says what follows."""
    if process.in_a_user_namespace():
        return  # where the node's root is nobody
    try:
        ownership.user_of(path)
    except ShimError as error:
        found = os.stat(path)
        own = found.st_uid or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        hint = f"chown root: {path}; chmod go-w {path}" if own else error.hint
        raise ShimError(f"{fault(found, path) if own else error}: {why}", hint) from None


def fault(found: os.stat_result, path: str) -> str:
    """Return in words who may write a file that others than root may write."""
    if found.st_uid:
        return f"{path} belongs to {process.user_name(found.st_uid)}"
    return f"{path} can be written by others"


def require_readable(path: str, why: str) -> None:
    """Raise ShimError if not everybody can read a file; `why` says what follows."""
    place = path
    while place != "/":
        needed = stat.S_IROTH if place == path else stat.S_IXOTH
        if not os.stat(place).st_mode & needed:
            mode = "644" if place == path else "755"
            raise ShimError(f"{place} is closed to users: {why}", f"chmod {mode} {place}")
        place = os.path.dirname(place)
