"""The limits of a container's IPC namespace, which only number 0 of its user namespace can set."""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import criu_images, linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = {  # {path below /proc/sys: field of CRIU's ipc_var_entry (criu's images/ipc-var.proto)}
    "kernel/msgmax": "msg_ctlmax",
    "kernel/msgmnb": "msg_ctlmnb",
    "kernel/msgmni": "msg_ctlmni",
    "kernel/shmmax": "shm_ctlmax",
    "kernel/shmall": "shm_ctlall",
    "kernel/shmmni": "shm_ctlmni",
    "kernel/shm_rmid_forced": "shm_rmid_forced",
    "fs/mqueue/queues_max": "mq_queues_max",
    "fs/mqueue/msg_max": "mq_msg_max",
    "fs/mqueue/msgsize_max": "mq_msgsize_max",
    "fs/mqueue/msg_default": "mq_msg_default",
    "fs/mqueue/msgsize_default": "mq_msgsize_default",
}


def limits(images: str, namespace: int) -> dict[str, str]:
    """Return {path below /proc/sys: value} of the IPC namespace that CRIU's images know by that number."""
    entry = criu_images.load(os.path.join(images, f"ipcns-var-{namespace}.img"))["entries"][0]
    found = {"kernel/sem": " ".join(map(str, entry["sem_ctls"]))}
    return found | {name: str(entry[field]) for name, field in FIELDS.items() if field in entry}


def check(wanted: Mapping[str, str]) -> None:
    """Raise ShimError unless new IPC namespaces have these limits, {path below /proc/sys: value}.

    No other user can set them.
    """

    def differ() -> int:
        linux.unshare(linux.CLONE_NEWIPC)
        return int(any(_limit(name) != value for name, value in wanted.items()))

    if process.exit_status(process.wait(process.fork(differ))):
        listed = ", ".join(f"{name.replace('/', '.')} = {value}" for name, value in wanted.items())
        raise ShimError(f"an IPC namespace has other limits here than the container's had: {listed}")


def _limit(name: str) -> str:
    with open(f"/proc/sys/{name}", encoding="ascii") as stream:
        return " ".join(stream.read().split())
