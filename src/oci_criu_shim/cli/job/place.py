"""Read an operand that names a job."""

from __future__ import annotations

import re

from oci_criu_shim.errors import USAGE, ShimError

NAME = re.compile(r"[1-9]\d{0,9}[_+]\d{1,9}", re.ASCII)


def job_number(word: str) -> int:
    """Return the JOBID `word` as a number; raise ShimError if it is none."""
    if word.isascii() and word.isdecimal() and 0 < int(word) < 1 << 32:
        return int(word)
    raise ShimError(f"a JOBID is a number such as 12, or 12_3 of an array, not {word!r}", status=USAGE)


def is_name(word: str) -> bool:
    """Return whether it is a name such as 12_3, of an array, or 12+1, of a heterogeneous job."""
    return NAME.fullmatch(word) is not None
