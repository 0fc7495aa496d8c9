"""Settings of a cluster, and the paths of an instance of it on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import ClusterError

CONTROLLER = "ctl"
REPOSITORY = Path(__file__).resolve().parents[3]
STATE = Path("/run/oci-criu-shim-cluster")
DATA = Path("/var/tmp/oci-criu-shim-cluster")


@dataclass(frozen=True)
class Settings:
    """Parameters of a cluster; times in seconds."""

    name: str = "default"
    nodes: int = 2
    cpus: int = 2
    """CPUs Slurm is told each node has."""
    memory: int = 8000
    """MiB Slurm is told each node has."""
    grace_time: int = 20
    """GraceTime of the partition `low`: from the preemption's SIGTERM to its SIGKILL."""
    kill_wait: int = 5
    requeue_delay: int = 5
    """How long a requeued job is held back. Slurm's default is 120 (cred_expire of AuthInfo)."""
    slurm_conf: tuple[str, ...] = ()
    """More lines of slurm.conf; they win over those above them."""
    cgroup_conf: tuple[str, ...] = ()
    """More lines of cgroup.conf. Without, nothing is constrained."""
    oci_conf: str | None = None
    """Text of oci.conf. None: the installed one of the project, or plain crun where nothing is installed."""
    plugstack: str | None = None
    """Text of plugstack.conf. None: the installed one of the project, or an empty one where nothing is installed."""
    job_container: str | None = None
    """Text of job_container.conf, where a line of slurm.conf has a plugin that reads it."""
    install: bool = True
    """Run `make install` of this checkout for the nodes."""
    subids: bool = False
    """Give the users ranges in /etc/subuid and /etc/subgid; crun then maps them into every user namespace."""
    packages: tuple[str, ...] = ()
    """More Debian packages for the nodes, in a root file system of their own."""
    unpacked: tuple[str, ...] = ()
    """Debian packages that are below the nodes' root file system, unpacked but not configured: that is sooner built."""
    ready_timeout: float = 60

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", self.name):
            raise ClusterError(f"{self.name!r} is no name for a cluster", "use up to 31 of a-z, 0-9 and -")
        if not 1 <= self.nodes <= 64:
            raise ClusterError(f"{self.nodes} nodes: not between 1 and 64")

    def compute_nodes(self) -> tuple[str, ...]:
        return tuple(f"n{index}" for index in range(1, self.nodes + 1))

    def all_nodes(self) -> tuple[str, ...]:
        """The controller first: its place is also its index in addresses and clock offsets."""
        return (CONTROLLER, *self.compute_nodes())

    def dump(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(Settings)}


def load(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of Settings from what dump() gave, perhaps another version's, after a way through JSON."""
    known = {name: raw[name] for name in (field.name for field in fields(Settings)) if name in raw}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}


@dataclass(frozen=True)
class Instance:
    """Paths of an instance, all derived from its name."""

    name: str

    @property
    def state(self) -> Path:
        return STATE / self.name

    @property
    def lock(self) -> Path:
        """Locked by the keeper as long as it lives."""
        return STATE / f"{self.name}.lock"

    @property
    def control(self) -> Path:
        return self.state / "control"

    @property
    def settings(self) -> Path:
        return self.state / "settings.json"

    @property
    def data(self) -> Path:
        return DATA / self.name

    @property
    def home(self) -> Path:
        return self.data / "home"

    @property
    def shared(self) -> Path:
        return self.data / "shared"

    @property
    def conf(self) -> Path:
        """/etc/slurm of every node."""
        return self.data / "conf"

    def log(self, node: str) -> Path:
        """/var/log/slurm of the node."""
        return self.data / "log" / node

    def node_data(self, node: str) -> Path:
        return self.data / "node" / node

    def node_state(self, node: str) -> Path:
        """Exists while the node runs: {"pid": the host's number of its init}."""
        return self.state / f"{node}.json"


def write_json(path: Path, value: object) -> None:
    """Write so that a reader sees all of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value))
    partial.rename(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
