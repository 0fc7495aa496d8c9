"""Compare what is installed on this node with the list that `make install` has written last."""

from __future__ import annotations

import os
import stat

from oci_criu_shim import __version__
from oci_criu_shim.cli.doctor import roots
from oci_criu_shim.cli.doctor.verdicts import Skipped
from oci_criu_shim.errors import ShimError
from oci_criu_shim.files import LIBDIR
from oci_criu_shim.host import process

PLUGIN = "oci_criu_shim_spank.so"
LIST = "FILES"
INSTALL = "make install on this node, or install its packages again"
PREFIX = os.path.dirname(os.path.dirname(LIBDIR))


def is_one() -> bool:
    """Return whether this program is an installation's: not one that runs in its sources."""
    return not os.path.exists(f"{LIBDIR}/launcher.py")


def share() -> str:
    """Return the directory of the files that a site includes or copies."""
    return f"{PREFIX if is_one() else '/usr'}/share/oci-criu-shim"


def whole() -> str:
    """Check that all parts are there, as they were installed, and that only root can change them."""
    if not is_one():
        raise Skipped("this runs in its sources")
    try:
        with open(f"{LIBDIR}/{LIST}", encoding="utf-8") as stream:
            entries = [line.rstrip("\n").partition(" ")[::2] for line in stream]
    except FileNotFoundError:
        raise ShimError(f"{LIBDIR} is not whole: it has no list of its {LIST}", INSTALL) from None
    roots.require(LIBDIR, "root's programs are there")
    faults: dict[str, list[str]] = {}
    for mode, name in entries:
        if fault := part(f"{LIBDIR}/{name}", int(mode, 8)):
            faults.setdefault(fault, []).append(name)
    if faults:
        said = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items())
        raise ShimError(f"{LIBDIR}: {said}", INSTALL)
    return f"{LIBDIR}: version {__version__}, {len(entries)} files"


def part(path: str, mode: int) -> str:
    """Return what is wrong with a file that was installed with `mode`; empty if nothing is."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "missing"
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return "empty"
    if mode & ~found.st_mode:
        return "closed to users" if not mode & ~found.st_mode & 0o111 else "not executable"
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or (found.st_uid and not process.in_a_user_namespace())
    return "not only root's to write" if others else ""
