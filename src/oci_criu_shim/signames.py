"""Signals by name and number.

From the table that the interpreter has anyway: signal makes enumerations of it, which takes as long as all else that
`kill` needs.
"""

from __future__ import annotations

from oci_criu_shim.errors import ShimError

try:
    import _signal as table  # type: ignore[import-not-found]  # typeshed does not know it
except ImportError:
    import signal as table


def parse(text: str) -> int:
    """The number of the signal `text`: `15`, `TERM` or `SIGTERM`; ShimError for any other."""
    number = int(text) if text.isdecimal() else _named(text.upper().removeprefix("SIG"))
    if not 0 < number < table.NSIG:
        raise ShimError(f"invalid signal {text!r}", "name one, or its number: kill -l")
    return number


def _named(name: str) -> int:
    """Also `RTMIN+3` and `RTMAX-1`; 0 where there is none of that name."""
    base, sign, offset = name.partition("-" if "-" in name else "+")
    if sign and not (base in ("RTMIN", "RTMAX") and offset.isdecimal()):
        return 0
    return int(getattr(table, f"SIG{base}", 0)) + int(f"{sign}{offset}" or "0") if base.isalnum() else 0
