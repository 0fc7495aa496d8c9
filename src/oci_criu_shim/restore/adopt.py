"""Hand a restored container over to crun, as if crun had created it."""

from __future__ import annotations

import base64
import os

from oci_criu_shim.container import backends
from oci_criu_shim.host import criu_images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.backends import Backend
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.files import Document


def adopt(plan: Plan, crun: Backend, checkpoint: Checkpoint, pid: int, group: str) -> None:
    """Have crun look after the container with the init `pid`, in its own control group `group` if that is not empty.

    Raise ShimError if its limits can't be set.
    """
    backends.adopt(crun, plan.container, plan.bundle, pid, group, seccomp(plan.given, checkpoint))
    if group:
        backends.limit(crun, plan.container, plan.bundle)


def seccomp(config: Document, checkpoint: Checkpoint) -> bytes:
    """Return the kernel's form of config.json's seccomp filter, from the images of the init; empty if it has none.

    It is the oldest of the init's filters: the backend set it before the program could add any.
    """
    if not config.get("linux", {}).get("seccomp"):
        return b""
    core = criu_images.load(os.path.join(checkpoint.images, "core-1.img"))["entries"][0]
    number = core["thread_core"].get("seccomp_filter")
    if number is None:
        return b""
    filters = criu_images.load(os.path.join(checkpoint.images, "seccomp.img"))["entries"][0]["seccomp_filters"]
    while "prev" in filters[number]:
        number = filters[number]["prev"]
    return base64.b64decode(filters[number]["filter"])
