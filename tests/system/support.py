"""Containers on a node, outside of Slurm: started, asked what they see, checkpointed, restored."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster import Cluster, wait_for
from tests.cluster.bundle import make_bundle
from tests.cluster.settings import REPOSITORY

PROGRAMS = REPOSITORY / "tests/programs"
SHIM = "/usr/bin/oci-criu-shim"
UIDS = {"root": 0, "alice": 1000}
Spec = dict[str, Any]


@dataclass
class Site:
    """A node with a root file system that bundles share, and a lender of capabilities for alice."""

    cluster: Cluster
    node: str = "n1"
    counter: int = 0

    def prepare(self) -> None:
        """What every bundle needs; the programs are in the root file system."""
        bundle = make_bundle(self.cluster.home / "alice" / "base", 1000, 1000)
        for program in PROGRAMS.glob("*.py"):
            shutil.copy(program, bundle / "rootfs")
        (bundle / "rootfs/usr/games").mkdir(exist_ok=True)
        (bundle / "rootfs/etc/shells").touch()
        (bundle / "rootfs/linked").symlink_to("/run")
        self.exec(["mkdir", "-p", "/home/alice/run"], "alice")

    @contextmanager
    def lending(self) -> Iterator[None]:
        """The step's helper is played by a program of the tests'."""
        socket = "/home/alice/run/helper.0.sock"
        self.exec(["rm", "-f", socket])
        argv = ["python3", "-I", "/src/tests/programs/lender.py", socket, "1000"]
        with subprocess.Popen(self.cluster.argv(self.node, argv, "root"), stdout=subprocess.PIPE, text=True) as lender:
            assert lender.stdout and lender.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                lender.kill()

    def exec(self, argv: list[str], user: str = "root", check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.cluster.exec(self.node, argv, user, check)

    def spec(self, user: str) -> Spec:
        """What crun proposes, with our root file system; the environment names a step, whose helper is asked."""
        directory = f"/tmp/spec-{user}"
        self.exec(["mkdir", directory], user)
        words = [] if user == "root" else ["--rootless"]
        self.cluster.exec(self.node, ["crun", "spec", *words], user, cwd=directory)
        spec: Spec = json.loads(self.exec(["cat", f"{directory}/config.json"], user).stdout)
        self.exec(["rm", "-r", directory], user)
        spec["root"] = {"path": "/home/alice/base/rootfs", "readonly": False}
        spec["process"] |= {"terminal": False, "args": ["python3", "-I", "/inside.py"]}
        if user != "root":
            spec["process"]["env"] += ["SLURM_JOB_ID=1", "SLURM_STEP_ID=0"]
        return spec

    def container(self, user: str, spec: Spec) -> Life:
        """A container with a bundle of its own, not started yet."""
        self.counter += 1
        home = "/home/alice" if user == "alice" else "/root"
        life = Life(self, user, f"c{self.counter}", f"{home}/bundle{self.counter}", spec)
        life.write()
        return life


@dataclass
class Life:
    """One container through its dump and restore."""

    site: Site
    user: str
    name: str
    bundle: str
    spec: Spec
    process: subprocess.Popen[str] | None = None
    errors: list[Path] = field(default_factory=list)

    @property
    def images(self) -> str:
        return f"{self.bundle}/checkpoints"

    def write(self) -> None:
        """The bundle, as the spec stands."""
        self.site.exec(["mkdir", "-p", self.bundle], self.user)
        text = json.dumps(self.spec)
        self.site.cluster.exec(self.site.node, ["tee", f"{self.bundle}/config.json"], self.user, input=text)

    def argv(self, *words: str) -> list[str]:
        root = "/home/alice/run" if self.user == "alice" else "/run/system-test"
        return [SHIM, "--root", root, *words]

    def run(self) -> None:
        self._start("run", "--bundle", self.bundle, self.name)

    def restore(self) -> None:
        self._start("restore", "--image-path", self.images, "--bundle", self.bundle, self.name)

    def checkpoint(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The container ends by it, unless an option says otherwise."""
        argv = self.argv("checkpoint", "--image-path", self.images, *options, self.name)
        done = self.site.exec(argv, self.user, check)
        if self.process and done.returncode == 0 and "--leave-running" not in options:
            self.process.communicate(timeout=20)
        return done

    def look(self) -> dict[str, Any]:
        """What is seen inside."""
        assert self.process and self.process.stdin and self.process.stdout
        self.process.stdin.write("look\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"nothing was answered: {self.said()}"
        seen: dict[str, Any] = json.loads(line)
        return seen

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.site.exec(self.argv("state", self.name), self.user).stdout)
        return found

    def end(self) -> int:
        """Its input ends, and so does it; its status."""
        assert self.process
        self.process.communicate(timeout=20)
        return self.process.returncode

    def said(self) -> str:
        """What the runtime and the container have printed to standard error."""
        return "".join(path.read_text(errors="replace") for path in self.errors)

    def stop(self) -> None:
        """Whatever it is doing, it does no more."""
        self.site.exec(self.argv("delete", "--force", self.name), self.user, check=False)
        if self.process:
            self.process.kill()
            self.process.communicate(timeout=20)
        wait_for(lambda: not self.site.exec(["pgrep", "-f", f"{self.name}$"], check=False).stdout, 10, "its end")

    def _start(self, *words: str) -> None:
        path = self.site.cluster.shared / f"{self.name}.{len(self.errors)}.err"
        self.errors.append(path)
        argv = self.site.cluster.argv(self.site.node, self.argv(*words), self.user)
        with path.open("w") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
