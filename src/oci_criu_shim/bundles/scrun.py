"""A bundle for a container that Podman or Docker made and that Slurm is to run, maybe on another node (scrun(1)).

Its root file system is on a file system that all nodes share. The rest that they prepared on this node is copied, or
left out: Slurm runs containers without privilege, in the node's network, and limits them itself.
"""

from __future__ import annotations

import os
import pwd
import time

from oci_criu_shim import config as settings
from oci_criu_shim import files
from oci_criu_shim.checkpoints.committed import SPEC
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.bundle import CONTAINER
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.host.mounts import is_bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

# Namespaces that are the container's own; a checkpoint needs the first.
OWN = ("pid", "ipc", "uts", "mount", "user")
# What a user can't have: groups, limits, labels and profiles of the node's.
DROPPED = ("rlimits", "selinuxLabel", "apparmorProfile", "oomScoreAdj")
# Mounts that need a network namespace, or a control group, of the container's own.
OF_THE_NODE = ("/sys", "/sys/fs/cgroup", "/run/secrets")
SHM_OPTIONS = ("nosuid", "noexec", "nodev", "mode=1777")
SHM = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": SHM_OPTIONS}
LARGEST = 1 << 20  # of a file that is copied, in bytes: resolv.conf, hosts and the like
# srun's options, which a container asks for by annotations of these names, or by variables as the job's own have them.
ANNOTATION = "oci-criu-shim."
OPTIONS = ("checkpoint", "checkpoint-dir", "checkpoint-interval", "checkpoint-keep", "restart-dir")
WORDS = "options"  # in the bundle: what slurm-oci/srun gives to srun, one a line
FIRST_TASK = "0.0"  # of a job that scrun has submitted
DAY = 86400.0


def main(argv: Sequence[str]) -> int:
    """Make CONFIG, of the container in the directory BUNDLE, a bundle for JOB of user UID and GID, and print its path,
    or, where that fails, why; the exit status."""
    try:
        print(_make(*argv))
    except (ShimError, OSError) as error:
        print(line_of(error))
        return 1
    return 0


def _make(config_file: str, bundle: str, path: str, job: str, uid: str, gid: str) -> str:
    """It is at PATH below his home directory: in Podman's user namespace, and by its environment, he has another."""
    os.environ["HOME"] = _home(int(uid))
    made = os.path.join(os.environ["HOME"], path)
    os.makedirs(made, mode=0o700, exist_ok=True)
    config = configured(files.read_json(config_file), bundle, int(uid), int(gid))
    config.setdefault("annotations", {})[CONTAINER] = os.path.basename(path)
    for number, mount in enumerate(config["mounts"]):
        if is_small_file(mount):
            mount["source"] = _copied(mount["source"], os.path.join(made, f"mount.{number}"))
    words = options(config, f"{made}.job", job)
    files.write_atomically(os.path.join(made, WORDS), "".join(f"{word}\n" for word in words).encode())
    files.write_json(os.path.join(made, "config.json"), config)
    return made


def _home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise ShimError(f"user {uid} is not known on this node", "what answers for its users must run") from None


def options(config: Mapping[str, Any], record: str, job: str) -> list[str]:
    """What srun is to be told: what the container asks for, and to go on from the checkpoint that its last job has
    left. The file `record` says which that was; from now on it is `job`."""
    environment = dict(entry.split("=", 1) for entry in config["process"].get("env", []) if "=" in entry)
    annotations = config.get("annotations", {})
    asked = {}
    for name in OPTIONS:
        value = annotations.get(ANNOTATION + name, environment.get("SLURM_" + name.upper().replace("-", "_")))
        if value is not None:
            asked[name] = value
            if "\n" in value:
                raise ShimError(f"{ANNOTATION}{name} has more than one line")
    if "checkpoint" in asked:
        directory = asked.get("checkpoint-dir") or settings.load().checkpoint_dir
        if "restart-dir" not in asked and (last := _last(record, annotations[CONTAINER])):
            asked["restart-dir"] = last
        _forget_old(os.path.dirname(record))
        files.write_atomically(record, os.path.join(directory, job, FIRST_TASK).encode())
    return [f"--{name}={value}" for name, value in asked.items()]


def _last(record: str, container: str) -> str:
    """The directory of a container's last task, where that has checkpoints: it did not end by itself."""
    try:
        with open(record, encoding="utf-8") as stream:
            path = stream.read()
        numbers = Store(path, ".").numbers()
        spec = files.read_json(os.path.join(path, str(numbers[-1]), SPEC)) if numbers else {}
    except FileNotFoundError:
        return ""
    # In an allocation, the first task may be another container's.
    return path if spec.get("annotations", {}).get(CONTAINER) == container else ""


def _forget_old(directory: str) -> None:
    """The records of containers whose checkpoints are gone: nobody tells of their removal."""
    for entry in os.scandir(directory):
        if entry.name.endswith(".job") and time.time() - entry.stat().st_mtime > DAY:
            with open(entry.path, encoding="utf-8") as stream:
                if not os.path.exists(stream.read()):
                    files.remove_if_there(entry.path)


def configured(config: Mapping[str, Any], bundle: str, uid: int, gid: int) -> dict[str, Any]:
    """`config` for user `uid` and `gid`, who becomes whoever the process runs as."""
    process = {key: value for key, value in config["process"].items() if key not in DROPPED}
    user = process.get("user", {})
    process["user"] = {"uid": user.get("uid", 0), "gid": user.get("gid", 0)}
    old = config.get("linux", {})
    linux = {key: old[key] for key in ("maskedPaths", "readonlyPaths") if key in old}
    linux["namespaces"] = [{"type": kind} for kind in OWN]
    linux["uidMappings"] = [{"containerID": process["user"]["uid"], "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": process["user"]["gid"], "hostID": gid, "size": 1}]
    kept = {key: config[key] for key in ("ociVersion", "annotations") if key in config}
    root = {**config["root"], "path": os.path.join(bundle, config["root"]["path"])}
    return {**kept, "root": root, "process": process, "linux": linux, "mounts": list(_mounts(config.get("mounts", [])))}


def _mounts(mounts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for mount in mounts:
        options = [word for word in mount.get("options", []) if not word.startswith(("uid=", "gid="))]
        if mount["destination"] == "/dev/shm":
            yield dict(SHM)
        elif mount["destination"] not in OF_THE_NODE:
            yield {**mount, "options": options}


def is_small_file(mount: Mapping[str, Any]) -> bool:
    """Whether a mount is one of a file that was written for the container, on this node."""
    path = mount.get("source", "")
    return is_bind(mount) and os.path.isfile(path) and os.path.getsize(path) <= LARGEST


def _copied(path: str, copy: str) -> str:
    with open(path, "rb") as stream:
        files.write_atomically(copy, stream.read(), mode=0o644)
    return copy
