"""Decide what is started, and how, from a bundle and the command line."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.container import backends, bundle
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.record import CONFIG
from oci_criu_shim.slurm import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container, Record
    from oci_criu_shim.files import Document
    from oci_criu_shim.log import Log
    from oci_criu_shim.slurm.tasks import Task


class Plan:
    """The start of a container: `options` go to the backend; the init's pid is written to `pid_file`."""

    def __init__(
        self,
        container: Container,
        path: str,
        globals: Mapping[str, str],
        options: list[str],
        pid_file: str | None,
        log: Log,
        config: str | None = None,
    ) -> None:
        self.container = container
        self.bundle: Bundle = bundle.load(path, config)
        self.given = self.bundle.config  # the config.json that the backend gets
        program = backends.choose(globals.get("backend"), self.bundle)
        self.backend = Backend(program, container.root, globals, log)
        self.backend.require("create", options)
        self.pid_file = pid_file
        self.options = [f"--bundle={self.bundle.path}", *options, container.name]
        self.preserved = _preserved(options)
        self.task: Task | None = tasks.of(self.bundle.environment())
        self.log = log

    def give(self, config: Document) -> None:
        """Have the backend get this config.json, if it is crun: others take none but the bundle's."""
        if config is self.bundle.config or self.backend.dialect != "crun":
            return
        self.given, path = config, self.container.path(CONFIG)
        files.write_json(path, config)
        self.options = [f"--config={path}", *(word for word in self.options if not word.startswith("--config="))]

    @property
    def supervised(self) -> bool:
        """Whether it may be checkpointed: its job asked for that; or it is in none, and root needs no helper."""
        if self.task is not None:
            return self.task.asked
        return os.geteuid() == 0

    @property
    def own_group(self) -> bool:
        """Whether it is an ordinary user's container with a control group of its own."""
        return os.geteuid() != 0 and self.backend.makes_groups

    @property
    def proxy(self) -> str | None:
        """The socket of its task's proxy; None if Slurm started none, so that the streams are our own."""
        if not self.task:
            return None
        from oci_criu_shim.slurm.rundir import RunDirectory

        path = RunDirectory(self.container.root).proxy_socket(self.task)
        return path if os.path.exists(path) else None

    @property
    def relays_terminal(self) -> bool:
        """Whether the container's terminal is copied to ours, rather than sent to a socket of the caller's."""
        return self.bundle.terminal and not any(word.startswith("--console-socket=") for word in self.options)

    @property
    def pid_option(self) -> list[str]:
        """The backend's option for `pid_file`."""
        return [f"--pid-file={self.pid_file}"] if self.pid_file else []

    def record(self, begun: str = "") -> Record:
        """Return the fields of the container's record that are known before it is started (Container.save()).

        It was first created at the time `begun`, as files.timestamp() gives it: now, if that is empty.
        """
        record: Record = {
            "begun": begun or files.timestamp(),
            "bundle": self.bundle.path,
            "config": self.bundle.config,
            "preserved": self.preserved,
            "own_group": self.own_group,
        }
        if self.task:  # the environment need not tell
            record["restarts"] = self.task.restarts
        return {**record, **self.backend.record()}


def stream(number: int) -> str:
    """Return the target of a descriptor of this process; empty if it is closed."""
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def _preserved(options: list[str]) -> list[str]:
    """Return the targets of the caller's descriptors that --preserve-fds hands on to the container."""
    for word in options:
        name, _, count = word.partition("=")
        if name == "--preserve-fds" and count.isdecimal():
            last = 2 + int(count)
            return [stream(number) for number in map(int, os.listdir("/proc/self/fd")) if 2 < number <= last]
    return []
