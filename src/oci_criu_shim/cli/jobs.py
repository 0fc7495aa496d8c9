"""Read an operand that names a job, and find the job's run directory on this node."""

from __future__ import annotations

import os
import re

from oci_criu_shim.container import ownership
from oci_criu_shim.errors import USAGE, ShimError
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY

NAME = re.compile(r"[1-9]\d{0,9}[_+]\d{1,9}", re.ASCII)


def job_number(word: str) -> int:
    """Return the JOBID `word` as a number; raise ShimError if it is none."""
    if word.isascii() and word.isdecimal() and 0 < int(word) < 1 << 32:
        return int(word)
    raise ShimError(f"a JOBID is a number such as 12, or 12_3 of an array, not {word!r}", status=USAGE)


def is_name(word: str) -> bool:
    """Return whether it is a name such as 12_3, of an array, or 12+1, of a heterogeneous job."""
    return NAME.fullmatch(word) is not None


def run_directory(job: int) -> str:
    """Return the root directory of a job's containers on this node, which may be missing.

    Raise ShimError if the job is somebody else's.
    """
    root = os.path.join(RUN_DIRECTORY, str(job))
    ownership.require_own(root)
    if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):
        raise ShimError(f"job {job} belongs to somebody else", "it is for its owner alone")
    return root
