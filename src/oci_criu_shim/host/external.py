"""The type of a mount that leads out of its container.

There is nothing else here, and other modules import it under TYPE_CHECKING: importing typing takes longer than most of
this package.
"""

from typing import NotRequired, TypedDict


class External(TypedDict):
    """A mount that CRIU must be told of (mounts.external()).

    `kind` says where its source is at a restore: "device" in the node's /dev; "cgroup" in the node's control groups;
    "sysfs" and "mqueue" (of a network or ipc namespace that is the node's) in the node's; "bind" in config.json's
    mounts, or an empty directory over one of its linux.maskedPaths; "node" in its linux.devices.
    """

    key: str  # the mount point in the container
    kind: str
    root: str  # as in mountinfo
    options: list[str]
    controllers: NotRequired[str]  # of a version 1 control group
    name: NotRequired[str]  # CRIU's name for it, if that is not the mount point
