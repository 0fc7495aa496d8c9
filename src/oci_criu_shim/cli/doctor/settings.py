"""Check the site's settings, config.toml."""

from __future__ import annotations

import os

from oci_criu_shim import config
from oci_criu_shim.cli.doctor import roots
from oci_criu_shim.cli.doctor.verdicts import Skipped
from oci_criu_shim.errors import ShimError
from oci_criu_shim.values import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.config import Settings
    from oci_criu_shim.files import Document


def check() -> str:
    """Check that all jobs can use config.toml, and that only root can change it; tell what is not the default."""
    values = _read()[1]
    if not os.path.exists(config.PATH):
        return "there is none: all defaults"
    roots.require_readable(config.PATH, "no container job starts")
    said = ", ".join(f"{name} = {shown(value)}" for name, value in values.items())
    return f"{config.PATH}: {said or 'all defaults'}"


def usable() -> tuple[Settings, Document]:
    """Return the settings, and those that are not the default as the file has them; raise Skipped if there is a fault.

    Of that, check() tells.
    """
    try:
        return _read()
    except ShimError:
        raise Skipped("config.toml can't be used") from None


def _read() -> tuple[Settings, Document]:
    if os.path.exists(config.PATH):
        roots.require(config.PATH, "everybody's jobs run the `backend` that it names")
    return config.read()
