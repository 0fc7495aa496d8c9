"""Prepare a bundle for a container that Podman or Docker made and Slurm is to run, maybe on another node (scrun(1)).

Its root file system is on a file system that all nodes share. Other files that the engine prepared on this node are
copied, or left out: Slurm runs containers without privilege, in the node's network, and limits them itself.
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
    from collections.abc import Iterator, Sequence

    from oci_criu_shim.files import Document

# Namespaces that are the container's own; a checkpoint needs the first.
OWN = ("pid", "ipc", "uts", "mount", "user")
# Fields of `process` that a user can't set, as they can't add groups: the node's limits, labels and profiles.
DROPPED = ("rlimits", "selinuxLabel", "apparmorProfile", "oomScoreAdj")
# Mounts that need a network namespace or a control group of the container's own.
OF_THE_NODE = ("/sys", "/sys/fs/cgroup", "/run/secrets")
SHM_OPTIONS = ("nosuid", "noexec", "nodev", "mode=1777")
SHM = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": SHM_OPTIONS}
LARGEST = 1 << 20  # bytes of a file that is copied, such as resolv.conf and hosts
# srun's options that a container may ask for: by annotations of these names, or by the variables that a job would use.
ANNOTATION = "oci-criu-shim."
OPTIONS = (
    *("checkpoint", "checkpoint-dir", "checkpoint-hook", "checkpoint-interval", "checkpoint-keep", "checkpoint-tcp"),
    "restart-dir",
)
WORDS = "options"  # a file in the bundle: the options that slurm-oci/srun gives to srun, one a line
FIRST_TASK = "0.0"  # of a job that scrun submitted
DAY = 86400.0


def main(argv: Sequence[str]) -> int:
    """Make a bundle from the arguments CONFIG BUNDLE PATH JOB UID GID, and print its path, or why that failed.

    CONFIG is the configuration of the container in the directory BUNDLE; PATH is the new bundle's place below the home
    directory of the user UID. Return the exit status.
    """
    try:
        print(_make(*argv))
    except (ShimError, OSError) as error:
        print(line_of(error))
        return 1
    return 0


def _make(config_file: str, bundle: str, path: str, job: str, uid: str, gid: str) -> str:
    """Make the bundle below the user's home directory, as the node has it; return its path.

    In Podman's user namespace, and in its environment, the user has another one.
    """
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
        raise ShimError(
            f"user {uid} is not known on this node", "the service that its users come from must run"
        ) from None


def options(config: Document, record: str, job: str) -> list[str]:
    """Return the options for srun: those that the container asks for, and the checkpoint that its last job left.

    The file `record` names the checkpoint directory of that job's task; from now on it names that of `job`.
    """
    environment = dict(entry.split("=", 1) for entry in config.get("process", {}).get("env", []) if "=" in entry)
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
    """Return the directory of a container's last task; empty if it has no checkpoints, since it ended by itself."""
    try:
        with open(record, encoding="utf-8") as stream:
            path = stream.read()
        numbers = Store(path, ".").numbers()
        spec = files.read_json(os.path.join(path, str(numbers[-1]), SPEC)) if numbers else {}
    except FileNotFoundError:
        return ""
    # In an allocation, the first task may be that of another container.
    return path if spec.get("annotations", {}).get(CONTAINER) == container else ""


def _forget_old(directory: str) -> None:
    """Remove the records of containers whose checkpoints are gone, since nothing tells of a container's removal."""
    for entry in os.scandir(directory):
        if entry.name.endswith(".job") and time.time() - entry.stat().st_mtime > DAY:
            with open(entry.path, encoding="utf-8") as stream:
                if not os.path.exists(stream.read()):
                    files.remove_if_there(entry.path)


def configured(config: Document, bundle: str, uid: int, gid: int) -> Document:
    """Return `config` for Slurm: the user with `uid` and `gid` is mapped to the one that the process runs as."""
    process = {key: value for key, value in config.get("process", {}).items() if key not in DROPPED}
    user = process.get("user", {})
    process["user"] = {"uid": user.get("uid", 0), "gid": user.get("gid", 0)}
    old = config.get("linux", {})
    linux = {key: old[key] for key in ("maskedPaths", "readonlyPaths") if key in old}
    linux["namespaces"] = [{"type": kind} for kind in OWN]
    linux["uidMappings"] = [{"containerID": process["user"]["uid"], "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": process["user"]["gid"], "hostID": gid, "size": 1}]
    kept: Document = {key: config[key] for key in ("ociVersion", "annotations") if key in config}
    root = {**config["root"], "path": os.path.join(bundle, config["root"]["path"])}
    return {**kept, "root": root, "process": process, "linux": linux, "mounts": list(_mounts(config.get("mounts", [])))}


def _mounts(mounts: Sequence[Document]) -> Iterator[Document]:
    for mount in mounts:
        options = [word for word in mount.get("options", []) if not word.startswith(("uid=", "gid="))]
        if mount["destination"] == "/dev/shm":
            yield dict(SHM)
        elif mount["destination"] not in OF_THE_NODE:
            yield {**mount, "options": options}


def is_small_file(mount: Document) -> bool:
    """Whether a mount is that of a small file, which was written for the container on this node."""
    path = mount.get("source", "")
    return is_bind(mount) and os.path.isfile(path) and os.path.getsize(path) <= LARGEST


def _copied(path: str, copy: str) -> str:
    with open(path, "rb") as stream:
        files.write_atomically(copy, stream.read(), mode=0o644)
    return copy
