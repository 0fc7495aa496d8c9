"""Overlay layers over a root, made by programs that run inside: what `make install` of a checkout adds, for one."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import cache
from .errors import ClusterError
from .process import run
from .rootfs import CONTAINED, Progress

SOURCES = ("etc", "spank", "src", "tools")

# The checkout is read-only inside, so that no product of another Debian release ends up in it.
# $1 root, $2 overlay directory, $3 checkout, then the command line.
SCRIPT = """
set -e
mkdir -p "$2/merged" "$2/work" "$2/upper/src"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/merged"
mount --bind "$3" "$2/merged/src"
mount -o remount,bind,ro "$2/merged/src"
mount -t tmpfs tmpfs "$2/merged/tmp"
mount --rbind /dev "$2/merged/dev"
mount -t proc proc "$2/merged/proc"
cd "$2/merged"
shift 3
exec chroot . "$@"
"""
INSTALL = ("make", "-C", "/src", "install", "PREFIX=/usr", "SYSCONFDIR=/etc", "BUILD=/tmp/build")


def inside(root: Path, directory: Path, checkout: Path, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run argv in a root, where checkout is /src and /tmp is empty; what it writes elsewhere goes to directory/upper.

    Raise ClusterError with its last lines.
    """
    words = ("layer", str(root), str(directory), str(checkout), *argv)
    return run([*CONTAINED, "/bin/sh", "-c", SCRIPT, *words])


def is_in(root: Path) -> bool:
    """Tell whether a root has the layer already: that of a virtual machine was built outside, which is faster."""
    return (root / "usr/bin/oci-criu-shim").exists()


def ensure(root: Path, checkout: Path, progress: Progress) -> Path:
    """Return the cached layer of a checkout as it is now over a root, which has Slurm's headers; install it if missing.

    Raise ClusterError with make's last lines.
    """
    if not (checkout / "Makefile").exists():
        raise ClusterError(f"{checkout} has no Makefile", "start the cluster with --no-install")
    name = f"{root.name.rpartition('-')[0]}-layer-{_digest(root, checkout)}"
    return cache.ensure(name, lambda scratch: _build(root, scratch, checkout, progress))


def _digest(root: Path, checkout: Path) -> str:
    """Return twelve digits that tell apart all that `make install` reads, and what runs it."""
    digest = hashlib.sha256(f"{root.name}\n{SCRIPT}\n{INSTALL}".encode())
    files = (path for name in SOURCES for path in (checkout / name).rglob("*"))
    for path in sorted(path for path in files if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(checkout)}\n{path.stat().st_mode:o}\n".encode())
        digest.update(path.read_bytes())
    digest.update((checkout / "Makefile").read_bytes())
    return digest.hexdigest()[:12]


def _build(root: Path, scratch: Path, checkout: Path, progress: Progress) -> Path:
    begin = time.monotonic()
    inside(root, scratch, checkout, INSTALL)
    progress(f"installed in {time.monotonic() - begin:.1f} s")
    return scratch / "upper"
