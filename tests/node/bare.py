"""Bare tasks, without a container, on a node."""

from __future__ import annotations

from tests.node.support import USERS, Life, Site, home

PLACES = "/dev/shm:/tmp:/var/tmp"


def task(site: Site, user: str, *words: str, terminal: bool = False, places: str = PLACES) -> Life:
    """A bare task of a user's, as bundles/task.py describes it; not started yet."""
    number = USERS[user]
    spec = site.spec(user)
    environment = [*spec["process"]["env"], f"HOME={home(user)}", "LANG=C.UTF-8"]
    process = {"terminal": terminal, "user": {"uid": number, "gid": number}, "cwd": "/", "args": [*words]}
    mapping = [{"containerID": number, "hostID": number, "size": 1}]
    return site.container(
        user,
        {
            "ociVersion": "1.0.2",
            "root": {"path": "/"},
            "process": {**process, "env": environment},
            "linux": {
                "namespaces": [{"type": kind} for kind in ("user", "pid", "mount", "ipc")],
                "uidMappings": mapping,
                "gidMappings": mapping,
            },
            "annotations": {"oci-criu-shim.bare": places},
        },
    )
