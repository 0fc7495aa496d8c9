"""Check the directory `local-dir`, to which checkpoints go that would be late elsewhere."""

from __future__ import annotations

from oci_criu_shim.cli.doctor import settings
from oci_criu_shim.cli.doctor.verdicts import Skipped
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.transfer import local


def check() -> str:
    """Check that it is on a disk of the node's own, where no user can remove another's files."""
    directory = settings.usable()[0].local_dir
    if not directory:
        raise Skipped("none: every checkpoint is written to its checkpoint directory", "see docs/local.md")
    try:
        local.require_fit(directory, 0)
    except OSError as error:
        raise ShimError(line_of(error), f"mkdir -m 1777 {directory}") from None
    return directory
