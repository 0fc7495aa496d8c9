"""Describe a job's checkpoint to podman, so that `podman container restore --import` makes a container of it.

podman makes containers of images only, even if a directory would do. Ours is an empty image (etc/image): podman puts
rootfs-diff.tar, the container's whole root file system, over it; without that, an annotation tells our `restore` of
the bundle's root file system. All else in an archive goes to the container's bundle: the images with a manifest of
their own, as the verb `checkpoint` leaves them, and in `artifacts`, which podman itself hands on, the files that Slurm
has mounted, whose places are gone with the job. (podman 5.4:
pkg/checkpoint/checkpoint_restore.go, libpod/container_internal_common.go, libpod/container_config.go.)
"""

from __future__ import annotations

import json
import os
import re
import stat

from oci_criu_shim import files
from oci_criu_shim.checkpoints import integrity
from oci_criu_shim.checkpoints.archive import ARTIFACTS, LOGS, ROOT
from oci_criu_shim.checkpoints.committed import ABOUT, IMAGES, LAYER, MANIFEST, SCRIPT, SPEC
from oci_criu_shim.checkpoints.directory import DESCRIPTORS
from oci_criu_shim.checkpoints.document import sealed
from oci_criu_shim.checkpoints.layer import Layer
from oci_criu_shim.checkpoints.tree import Tree
from oci_criu_shim.container.bundle import ROOTFS, ROOTFS_MODE, Bundle
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host.mounts import is_bind
from oci_criu_shim.slurm.tasks import BATCH_SCRIPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.checkpoints.archive import Addition
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.files import Document

PREFIX = os.path.abspath(os.path.join(files.LIBDIR, os.pardir, os.pardir))  # LIBDIR: <prefix>/lib/oci-criu-shim
RUNTIME = os.path.join(PREFIX, "bin/oci-criu-shim")  # podman restores by the one that is named, and by no other
IMAGE = f"oci:{PREFIX}/share/oci-criu-shim/image:localhost/oci-criu-shim"
IMAGE_ID = "bebe4a5663981087f3a38fe5bc180c4ffe6f40301357685636d8b843351fcf57"  # the digest of its configuration
# What slurmstepd mounts in a container: the places in it, and the directory on the node, which is the task's in Slurm
# 24.11, and the step's since 25.05 (container.c).
STREAMS = tuple(f"/tmp/slurm/{name}" for name in ("stdin", "stdout", "stderr"))
SPOOL = re.compile(r"/.*/oci-job\d+-[^/]+(/task-\d+)?")
MANAGER = "io.container.manager"  # annotation by which checkpointctl knows podman's archives
DEFAULTS = {"stopSignal": 15, "stopTimeout": 10, "shmSize": 65536000, "logDriver": "k8s-file", "passwd": False}


def additions(checkpoint: Checkpoint, rootfs: bool) -> dict[str, Addition]:
    """Return {name in the archive: content} of what an archive has besides `checkpoint`, whose images are raw.

    With `rootfs`, its root file system is among them.
    """
    config: Document = files.read_json(os.path.join(checkpoint.path, SPEC))
    if rootfs and Bundle("/", config).is_bare:
        raise ShimError("it is of a task without a container: its root file system is a node's", "leave out --rootfs")
    about = files.read_json(os.path.join(checkpoint.path, ABOUT))
    tree = {ROOT: _tree(checkpoint, config)} if rootfs else {}
    return {
        ABOUT: _json({**about, **_container(checkpoint, config)}),
        SPEC: _json(_specification(checkpoint, config, rootfs)),
        **_manifests(checkpoint),
        **_slurms(checkpoint, config),
        **tree,
    }


def _tree(checkpoint: Checkpoint, config: Document) -> Tree:
    """Return the root file system as it was at the checkpoint, as far as that is known.

    Files that the container was writing have the length they had, and those in the checkpoint have its content.
    """
    written = checkpoint.manifest.get("written", [])
    lengths = {row["name"]: row["size"] for row in written if row["mount"] == "/"}
    layer = Layer(checkpoint.path) if LAYER in checkpoint.manifest["files"] else None
    return Tree(config["root"]["path"], lengths, layer)


def _container(checkpoint: Checkpoint, config: Document) -> Document:
    """Return the fields of podman's ContainerConfig that it can't do without."""
    bundle = Bundle("/", config)
    user = config["process"].get("user", {})
    network = bundle.namespaces.get("network")
    bound = {mount["destination"].rstrip("/") for mount in filter(is_bind, bundle.mounts)}
    own_memory = "/dev/shm" not in bound  # then it is in the images
    begun = {"createdTime": checkpoint.manifest["begun"]} if "begun" in checkpoint.manifest else {}
    return {
        **DEFAULTS,
        **begun,
        "id": checkpoint.manifest["checksum"],
        "runtime": RUNTIME,
        "rootfsImageName": IMAGE,
        "rootfsImageID": IMAGE_ID,
        "user": f"{user.get('uid', 0)}:{user.get('gid', 0)}",
        "networkMode": "host" if network is None else f"ns:{network}" if network else "none",
        "NoShm": own_memory,
        "NOShmShare": own_memory,
        "UseImageHosts": "/etc/hosts" not in bound,
        "UseImageResolvConf": "/etc/resolv.conf" not in bound,
        "useImageHostname": "/etc/hostname" not in bound,
    }


def _specification(checkpoint: Checkpoint, config: Document, rootfs: bool) -> Document:
    """Return config.json for podman's container."""
    linux = dict(config.get("linux", {}))
    if any(entry["type"] == "user" for entry in linux.get("namespaces", [])):
        for kind, rows in (("uid", checkpoint.manifest["uid_map"]), ("gid", checkpoint.manifest["gid_map"])):
            linux[f"{kind}Mappings"] = [dict(zip(("containerID", "hostID", "size"), row, strict=True)) for row in rows]
    root = config["root"]["path"]
    mark = {ROOTFS_MODE: f"{stat.S_IMODE(os.stat(root).st_mode):o}"} if rootfs else {ROOTFS: root}
    annotations = {**config.get("annotations", {}), **mark, MANAGER: "libpod"}
    moved = [{**m, "source": place} if (place := _artifact(m)) else m for m in config.get("mounts", [])]
    # Processes that are added to the container later (`exec`) belong to no job.
    environment = [entry for entry in config["process"].get("env", []) if not entry.startswith("SLURM")]
    process = {**config["process"], "env": environment}
    return {**config, "process": process, "linux": linux, "annotations": annotations, "mounts": moved}


def _artifact(mount: Document) -> str | None:
    """Return the place in the archive, and below podman's bundle, of what Slurm has mounted; None for other mounts."""
    point = mount["destination"].rstrip("/")
    if point in (BATCH_SCRIPT, *STREAMS):
        return f"{ARTIFACTS}/{os.path.basename(point)}"
    return f"{ARTIFACTS}/spool" if SPOOL.fullmatch(mount.get("source", "").rstrip("/")) else None


def _slurms(checkpoint: Checkpoint, config: Document) -> dict[str, Addition]:
    """Return the task's spool directory and the job's streams, empty; the script comes with the checkpoint."""
    kept = f"{ARTIFACTS}/{SCRIPT}" if SCRIPT in checkpoint.manifest["files"] else None
    names = [name for mount in config.get("mounts", []) if (name := _artifact(mount)) not in (None, kept)]
    return {name: None if name.endswith("/spool") else b"" for name in names if name}


def _manifests(checkpoint: Checkpoint) -> dict[str, Addition]:
    """Return what the verb `checkpoint` leaves beside the images; podman's containers have their own control groups."""
    manifest, sums = checkpoint.manifest, integrity.checksums(checkpoint)
    sizes = _inner(manifest["files"])
    inner = {"files": sizes, "bytes": sum(sizes.values()), "sha256": _inner(manifest["sha256"]), "own_cgroup": True}
    if "needs" in manifest:
        inner["needs"] = {**manifest["needs"], "image": ""}  # podman's bundle is another
    documents = {MANIFEST: sealed({**manifest, **inner}), DESCRIPTORS: manifest["streams"]}
    if sums:
        documents[integrity.CHECKSUMS] = integrity.document(_inner(sums))
    return {f"{IMAGES}/{name}": _json(document) for name, document in documents.items()}


def _inner(named: Mapping[str, object]) -> Document:
    """Return the entries of the images alone, by their names in their directory."""
    found = {name.removeprefix(f"{IMAGES}/"): value for name, value in named.items() if name.startswith(f"{IMAGES}/")}
    return {name: value for name, value in found.items() if name not in LOGS}


def _json(document: object) -> bytes:
    return json.dumps(document, indent=1).encode()
