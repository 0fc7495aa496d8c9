"""Which job an operand means."""

from __future__ import annotations

from oci_criu_shim.errors import USAGE, ShimError


def job_number(word: str) -> int:
    """The JOBID `word`; ShimError where it is none."""
    if word.isascii() and word.isdecimal() and 0 < int(word) < 1 << 32:
        return int(word)
    raise ShimError(f"a JOBID is a number such as 12, not {word!r}", status=USAGE)
