"""Runs the plugin's tests inside the nodes' root file system, where Slurm's headers and valgrind are."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from tests.harness.cluster.cache import kept
from tests.harness.cluster.process import File, environment
from tests.harness.cluster.rootfs import CONTAINED, NODE, ensure
from tests.harness.cluster.settings import REPOSITORY

# The checkout is read-only there. The overlay, with all that is built in it, goes with the mount namespace.
# $1 root, $2 checkout, $3 words for unittest.
SCRIPT = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/merged
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/merged
mkdir /mnt/merged/src
mount --bind "$2" /mnt/merged/src
mount -o remount,bind,ro /mnt/merged/src
mount --rbind /dev /mnt/merged/dev
mount -t proc proc /mnt/merged/proc
exec chroot /mnt/merged make -C /src/spank check BUILD=/tmp/build CHECK_FLAGS="$3"
"""


def run(words: Sequence[str], output: File = None) -> int:
    """Build the plugin and run its tests with these words for `unittest discover`; return the exit status of make.

    What is said goes to `output`, or to this process's streams. Raise ClusterError if there is no root file system.
    """
    with kept(ensure(NODE, lambda text: print(text, file=sys.stderr))) as root:
        argv = [*CONTAINED, "/bin/sh", "-c", SCRIPT, "spank-check", str(root), str(REPOSITORY), shlex.join(words)]
        errors = None if output is None else subprocess.STDOUT
        done = subprocess.run(
            argv, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=errors, check=False
        )
    return done.returncode
