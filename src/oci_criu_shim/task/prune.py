"""What ended jobs have left in a checkpoint directory goes with a later job of its user, once a day."""

from __future__ import annotations

import os
import time

from oci_criu_shim import files
from oci_criu_shim.host import process

STAMP = "last-prune"  # in the checkpoint directory
INTERVAL = 86400


def begin(directory: str, keep: int) -> None:
    """Have checkpoints in `directory` removed of jobs that Slurm no longer knows, unless they are younger than `keep`
    seconds; in the background, at the lowest priority."""
    if _is_due(os.path.join(directory, STAMP)):
        process.fork(lambda: _prune(directory, keep))


def _is_due(stamp: str) -> bool:
    try:
        if time.time() - os.stat(stamp).st_mtime < INTERVAL:
            return False
    except FileNotFoundError:
        pass
    try:
        files.write_atomically(stamp, b"")
    except OSError:
        return False
    return True


def _prune(directory: str, keep: int) -> int:
    """Runs in a child of the supervisor, and keeps nothing of its open: others wait for the end of those pipes."""
    import signal

    from oci_criu_shim.cli.ckpt import change
    from oci_criu_shim.errors import ShimError

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(19)
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    try:
        change.prune_ended(directory, keep)
    except (ShimError, OSError):
        return 1  # tomorrow is another day
    return 0
