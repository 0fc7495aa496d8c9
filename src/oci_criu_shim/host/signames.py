"""Parse names and numbers of signals.

They come from the table that the interpreter has anyway: the module signal makes enumerations of it, which takes as
long as everything else in `kill`.
"""

from __future__ import annotations

from oci_criu_shim.errors import ShimError

try:
    import _signal as table  # type: ignore[import-not-found]  # typeshed does not know it
except ImportError:
    import signal as table


def parse(text: str) -> int:
    """Return the number of the signal `15`, `TERM` or `SIGTERM`, also `0`, which only tells whether one could be sent;
    ShimError for any other text."""
    number = int(text) if _is_number(text) else _named(text.upper().removeprefix("SIG"))
    if number is None or not 0 <= number < table.NSIG:
        raise ShimError(f"invalid signal {text!r}", "name one, or its number: kill -l")
    return number


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _named(name: str) -> int | None:
    """Return the number of a name, also of `RTMIN+3` and `RTMAX-1`; None if no signal has it."""
    base, sign, offset = name.partition("-" if "-" in name else "+")
    found = getattr(table, f"SIG{base}", None) if base.isalnum() else None
    if found is None or not sign:
        return found
    number = found + int(sign + offset) if base in ("RTMIN", "RTMAX") and _is_number(offset) else 0
    return number if table.SIGRTMIN <= number <= table.SIGRTMAX else None
