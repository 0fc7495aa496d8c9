"""Have a user's container run under the user's own ids, as `podman run --userns=keep-id` has it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.files import Document


def change(config: Document) -> None:
    """Change a config.json, such as `crun spec --rootless` writes, so that the user's ids are the same inside."""
    own = {"uid": os.geteuid(), "gid": os.getegid()}
    for kind, number in own.items():
        config["linux"][f"{kind}Mappings"] = [{"containerID": number, "hostID": number, "size": 1}]
    config["process"].setdefault("user", {}).update(own)
