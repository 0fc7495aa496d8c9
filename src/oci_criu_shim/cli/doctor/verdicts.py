"""What a check raises besides ShimError, which is a failure."""

from __future__ import annotations

from oci_criu_shim.errors import ShimError


class Caution(ShimError):
    """It works, but not as well as it could, or not for everybody."""


class Skipped(ShimError):
    """It can't be told here, and why."""
