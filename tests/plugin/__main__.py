"""`make -C spank check` inside the root file system of the test cluster, where Slurm's headers and valgrind are."""

from __future__ import annotations

import shlex
import subprocess
import sys

from tests.harness.cluster.errors import ClusterError
from tests.harness.cluster.process import environment
from tests.harness.cluster.rootfs import CONTAINED, NODE, ensure, kept
from tests.harness.cluster.settings import REPOSITORY

# The checkout is read-only there; the overlay and all that is built in it are gone with the mount namespace.
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


def main() -> int:
    """Run the tests with this process's streams, those that unittest's words on the command line choose (`-k NAME`);
    make's exit status."""
    with kept(ensure(NODE, lambda text: print(text, file=sys.stderr))) as root:
        argv = [*CONTAINED, "/bin/sh", "-c", SCRIPT, "spank-check", str(root), str(REPOSITORY)]
        argv.append(shlex.join(sys.argv[1:]))
        return subprocess.run(argv, env=environment(), stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"error: {error}")
