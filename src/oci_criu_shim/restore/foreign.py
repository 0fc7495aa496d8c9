"""Read a checkpoint that runc or crun made: find in its images and in config.json what our manifest would say."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.checkpoints.directory import DESCRIPTORS, Images
from oci_criu_shim.container import backends
from oci_criu_shim.errors import ShimError, cause_of
from oci_criu_shim.host import clocks, criu, criu_images, ids, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.manifest import Clock, Manifest
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.files import Document
    from oci_criu_shim.host.external import External
    from oci_criu_shim.host.ids import IdMap

ALL_IDS = [[0, 0, (1 << 32) - 1]]


def checkpoint(path: str, bundle: Bundle) -> Images:
    """Return the images in the directory `path`, with as much of a manifest as a restore needs.

    Raise ShimError if the file that describes the standard streams can't be read.
    """
    try:
        streams = files.read_json(os.path.join(path, DESCRIPTORS))
    except (OSError, ValueError) as error:
        raise ShimError(f"{path}/{DESCRIPTORS}: {cause_of(error)}") from None
    own = criu_images.load(os.path.join(path, "ids-1.img"))["entries"][0]
    root = criu_images.load(os.path.join(path, criu.INVENTORY))["entries"][0]["root_ids"]
    linux = bundle.config.get("linux", {})
    manifest: Manifest = {
        "files": {},
        "sha256": {},
        "streams": streams,
        "input": "",
        "clock": _clock(path, own) if own.get("time_ns_id") != root.get("time_ns_id") else None,
        "external": _external(path, own, bundle),
        "own_cgroup": os.geteuid() == 0,
        "uid_map": _id_map(linux.get("uidMappings")),
        "gid_map": _id_map(linux.get("gidMappings")),
    }
    return Images(os.path.abspath(path), manifest)


def _clock(path: str, own: dict[str, int]) -> Clock:
    """Return the clocks of the container's own time namespace, in nanoseconds."""
    entry = criu_images.load(os.path.join(path, f"timens-{own['time_ns_id']}.img"))["entries"][0]
    return {name: int(entry[name]["tv_sec"]) * clocks.SECOND + int(entry[name]["tv_nsec"]) for name in clocks.NAMES}


def _id_map(mappings: list[dict[str, int]] | None) -> IdMap:
    return ids.configured(mappings or []) or ALL_IDS


def _external(path: str, own: dict[str, int], bundle: Bundle) -> list[External]:
    """Return the mounts that CRIU was told of, with the names it was told: runc calls all masked files /dev/null."""
    image = criu_images.load(os.path.join(path, f"mountpoints-{own['mnt_ns_id']}.img"))
    entries = [entry for entry in image["entries"] if entry.get("ext_key") and entry["mountpoint"] != "/"]
    return [_entry(entry, bundle) for entry in entries]


def _entry(entry: Document, bundle: Bundle) -> External:
    point = entry["mountpoint"]
    found: External = {
        "name": entry["ext_key"],
        "key": point,
        "kind": "bind",
        "root": entry["root"],
        "options": mounts.names(entry["flags"]),
    }
    if bundle.source(point):
        return found
    if point in bundle.masked and os.path.basename(entry["root"]) != backends.EMPTY:
        return {**found, "kind": "device", "root": "/null"}
    if any(mount.get("type") == "cgroup" and point.startswith(mount["destination"]) for mount in bundle.mounts):
        return {**found, "kind": "cgroup", "controllers": os.path.basename(point)}
    return found
