"""The overlay layer that `make install` of this checkout adds to a root."""

from __future__ import annotations

import time
from pathlib import Path

from .errors import ClusterError
from .process import run
from .rootfs import CONTAINED, Progress

# Built inside the root, which has Slurm's headers. The checkout is read-only there, so that no product of another
# Debian release ends up in it. $1 root, $2 overlay directory, $3 checkout.
SCRIPT = """
set -e
mkdir -p "$2/merged" "$2/work" "$2/upper/src"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/merged"
mount --bind "$3" "$2/merged/src"
mount -o remount,bind,ro "$2/merged/src"
mount -t tmpfs tmpfs "$2/merged/tmp"
mount --rbind /dev "$2/merged/dev"
mount -t proc proc "$2/merged/proc"
exec chroot "$2/merged" make -C /src install PREFIX=/usr SYSCONFDIR=/etc BUILD=/tmp/build
"""


def is_in(root: Path) -> bool:
    """Tell whether a root has the layer already: that of a virtual machine was built outside, which is faster."""
    return (root / "usr/bin/oci-criu-shim").exists()


def build(root: Path, directory: Path, checkout: Path, progress: Progress) -> Path:
    """Install checkout into a layer over root; return the layer. Raise ClusterError with make's last lines."""
    if not (checkout / "Makefile").exists():
        raise ClusterError(f"{checkout} has no Makefile", "start the cluster with --no-install")
    begin = time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    run([*CONTAINED, "/bin/sh", "-c", SCRIPT, "install-layer", str(root), str(directory), str(checkout)])
    progress(f"installed in {time.monotonic() - begin:.1f} s")
    return directory / "upper"
