"""An OCI runtime by its command line, on a node of a test cluster, and a container of one bundle."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.cluster import Cluster
from tests.harness.cluster.waiting import patient

NODE = "n1"
SHARED = "/shared"
CASE = "/case"
"""Where a container sees its test's directory."""
TIMEOUT = patient(30)


def until(predicate: Callable[[], bool], what: str) -> None:
    """Wait for it in small steps: most of these tests' time is this."""
    deadline = time.monotonic() + TIMEOUT
    while not predicate():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    status: int
    out: str
    err: str
    refusals: list[tuple[str, int]]

    def ok(self) -> Done:
        assert self.status == 0, f"status {self.status}: {self.err}"
        return self

    def refused(self, what: str = "", usage: bool = False) -> None:
        """An error as crun gives one, and a word on stderr. Its status is crun's (1, or 255 for a hook's), but for a
        command line without what it must have, which each runtime has a status of its own for."""
        assert self.status in (1, 2, 255), f"{what!r}: status {self.status}: {self.out}{self.err}"
        assert self.err.strip(), what
        if not usage:
            self.refusals.append((what, self.status))


@dataclass(frozen=True)
class Runtime:
    """`program` run by `user`, with its state in `directory`, which the host and the node share."""

    cluster: Cluster
    program: str
    user: str
    directory: Path
    refusals: list[tuple[str, int]] = field(default_factory=list)
    """What was refused in this test, and with which status: the same as by crun, which has its turn first."""

    @property
    def is_root(self) -> bool:
        return self.user == "root"

    @property
    def root(self) -> Path:
        """--root. Two levels down: crun takes `delete --force ..` at its word."""
        return self.directory / "state" / "root"

    def inside(self, path: Path) -> str:
        """The node's name of a path below /shared."""
        return f"{SHARED}/{path.relative_to(self.cluster.shared)}"

    def shell(self, script: str, user: str | None = None) -> str:
        """What a script says on the node."""
        return self.cluster.exec(NODE, ["sh", "-c", script], user or self.user).stdout

    def call(self, *words: str, cwd: Path | None = None, prefix: tuple[str, ...] = ()) -> Done:
        """Run the runtime to its end. Its output goes to files: a container that is left running holds them open."""
        argv = [*prefix, self.program, "--root", self.inside(self.root), *words]
        line = self.cluster.argv(NODE, argv, self.user, self.inside(cwd or self.directory))
        out, err = self.directory / "out", self.directory / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, timeout=TIMEOUT)
        return Done(done.returncode, out.read_text(errors="replace"), err.read_text(errors="replace"), self.refusals)

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.call("state", name).ok().out)
        return state

    def status(self, name: str) -> str:
        """The status, and `none` where there is no such container."""
        done = self.call("state", name)
        return str(json.loads(done.out)["status"]) if done.status == 0 else "none"

    def names(self) -> set[str]:
        """Containers that have a directory; what is hidden is for all, and may have a directory for each."""
        return {path.name for path in (*self.root.glob("[!.]*"), *self.root.glob(".*/[!.]*"))}

    def pid_file(self, name: str) -> Path:
        return self.directory / f"{name}.pid"

    def wait_ended(self, name: str) -> None:
        """Wait for the end of a container's init, without asking the runtime: each call costs."""
        init = Path(f"/proc/{self.cluster.node_pid(NODE)}/root/proc/{self.pid_file(name).read_text()}")
        until(lambda: not init.exists(), f"the end of {name}")


@dataclass
class Bundle:
    """A bundle whose root file system is shared by all; `config` is written by every save()."""

    runtime: Runtime
    path: Path
    config: dict[str, Any]
    name: str = "c1"

    @property
    def inside(self) -> str:
        return self.runtime.inside(self.path)

    def args(self, *words: str) -> Bundle:
        """The user's program."""
        self.config["process"]["args"] = list(words)
        return self

    def script(self, text: str) -> Bundle:
        return self.args("sh", "-c", text)

    def save(self) -> Bundle:
        self.path.mkdir(exist_ok=True)
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self

    def create(self, name: str = "", *options: str, bundle: str = "") -> Done:
        """Create a container; its pid goes to Runtime.pid_file()."""
        self.save()
        pid_file = self.runtime.inside(self.runtime.pid_file(name or self.name))
        words = ("--bundle", bundle or self.inside, "--pid-file", pid_file, *options)
        return self.runtime.call("create", *words, name or self.name)

    def start(self) -> Done:
        return self.runtime.call("start", self.name)

    def kill(self, *signal: str) -> Done:
        return self.runtime.call("kill", self.name, *signal)

    def delete(self, *options: str) -> Done:
        return self.runtime.call("delete", *options, self.name)

    def run(self, *options: str) -> Done:
        self.save()
        return self.runtime.call("run", "--bundle", self.inside, *options, self.name)

    def started(self) -> Bundle:
        """Created and started, both without an error."""
        self.create().ok()
        self.start().ok()
        return self

    def stopped(self) -> Bundle:
        """Created, and at its end before it was ever started."""
        self.create().ok()
        self.end()
        return self

    def end(self) -> None:
        self.kill("KILL").ok()
        self.runtime.wait_ended(self.name)

    def wait_ended(self) -> None:
        self.runtime.wait_ended(self.name)

    def state(self) -> dict[str, Any]:
        return self.runtime.state(self.name)

    def mark(self, name: str) -> Path:
        """The host's path of a file that the container and its hooks may write."""
        return self.runtime.directory / name

    def marked(self, name: str) -> str:
        """The text of such a file, once it is there and ends in a newline."""
        path = self.mark(name)
        until(lambda: path.exists() and path.read_text().endswith("\n"), f"{path} to be written")
        return path.read_text()

    def hook(self, script: str, *words: str, env: list[str] | None = None) -> dict[str, Any]:
        """A hook that runs a script. It takes its input, into $input: crun 1.21 dies of SIGPIPE if it ends before."""
        entry: dict[str, Any] = {"path": "/bin/sh", "args": ["sh", "-c", f"input=$(cat); {script}", *words]}
        return entry if env is None else {**entry, "env": env}


def spec(rootless: dict[str, Any], user: str) -> dict[str, Any]:
    """config.json for a user, from that of `crun spec --rootless`: no bundle of its own, no noise about subids."""
    config = copy.deepcopy(rootless)
    config["ociVersion"] = "1.0.0"
    config["root"]["path"] = f"{SHARED}/bundle/rootfs"
    config["process"]["args"] = ["sleep", "1000"]
    linux = config["linux"]
    if user == "root":
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "user"]
    else:
        linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 1000, "size": 1}]
    return config


def bind(config: dict[str, Any], source: str, point: str) -> None:
    config["mounts"].append({"destination": point, "source": source, "options": ["rbind", "rw"]})


def runtimes() -> list[str]:
    """RUNTIME names others, by words: what is on the nodes' PATH, or absolute paths on them."""
    return os.environ.get("RUNTIME", "crun oci-criu-shim").split()
