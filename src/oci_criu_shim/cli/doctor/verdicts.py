"""The outcomes of checks: a check returns what it found, or raises ShimError for a failure or one of these."""

from __future__ import annotations

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypedDict

    Check = tuple[str, Callable[[], str]]
    """A check's name, and the function that returns what it found."""

    class Result(TypedDict):
        """What doctor says of a check, for --json; `status` is ok, warning, failed or skipped."""

        host: str
        name: str
        status: str
        found: str
        hint: str


OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


class Caution(ShimError):
    """What was checked works, but not as well as it could, or not for everybody."""


class Skipped(ShimError):
    """It can't be checked here, or the site does without it; the message says why."""
