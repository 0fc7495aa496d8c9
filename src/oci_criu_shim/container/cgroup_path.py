"""Tell which control group a backend gives to a container of root's (config.json's linux.cgroupsPath)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container


def find(container: Container, bundle: Bundle) -> str:
    """Return the path of the container's group in each hierarchy, as crun chooses it.

    A path of systemd's form, SLICE:PREFIX:NAME, is a scope in that slice.
    """
    configured: str = bundle.config.get("linux", {}).get("cgroupsPath", "")
    if configured.count(":") == 2:
        slice_name, prefix, name = configured.split(":")
        configured = f"{_slice(slice_name or 'system.slice')}/{'-'.join(filter(None, (prefix, name)))}.scope"
    return os.path.normpath("/" + (configured.lstrip("/") or container.name))


def _slice(name: str) -> str:
    """Return the path of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5))."""
    parts = name.removesuffix(".slice").split("-")
    return "/".join("-".join(parts[: number + 1]) + ".slice" for number in range(len(parts)))
