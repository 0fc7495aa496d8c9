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

from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.bundle import make_bundle
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.cluster.waiting import patient

PROGRAMS = REPOSITORY / "tests/harness/programs"
SHIM = "/usr/bin/oci-criu-shim"
USERS = {"alice": 1000, "bob": 1001}
Spec = dict[str, Any]


@dataclass
class Site:
    """A node with a root file system for each user's bundles. bob has ranges of ids, alice has none."""

    cluster: Cluster
    node: str = "n1"
    counter: int = 0
    jobs: int = 1  # that number is for tests that name it

    def prepare(self, *users: str) -> None:
        """What every bundle needs; the programs are in the root file system."""
        for user in users:
            bundle = make_bundle(self.cluster.home / user / "base", USERS[user], USERS[user])
            for program in PROGRAMS.glob("*.py"):
                shutil.copy(program, bundle / "rootfs")
            (bundle / "rootfs/usr/games").mkdir(exist_ok=True)
            (bundle / "rootfs/etc/shells").touch()
            (bundle / "rootfs/linked").symlink_to("/run")
            self.exec(["mkdir", "-p", f"/home/{user}/run", f"/home/{user}/jobs"], user)
        self.exec(["chmod", "711", "/home/bob"])  # ids of the ranges must get to the root file system
        self.exec(["sh", "-c", "echo bob:200000:65536 | tee /etc/subuid >/etc/subgid"])

    @contextmanager
    def lending(self, user: str) -> Iterator[None]:
        """The step's helper is played by a program of the tests'."""
        if user == "root":
            yield
            return
        socket = f"/home/{user}/run/helper.0.sock"
        argv = ["python3", "-I", "/src/tests/harness/programs/lender.py", socket, str(USERS[user])]
        with subprocess.Popen(self.cluster.argv(self.node, argv, "root"), stdout=subprocess.PIPE, text=True) as lender:
            assert lender.stdout and lender.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                lender.kill()
                self.exec(["rm", socket])

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
        owner = "alice" if user == "root" else user
        spec["root"] = {"path": f"/home/{owner}/base/rootfs", "readonly": False}
        spec["process"] |= {"terminal": False, "args": ["python3", "-I", "/inside.py"]}
        if user != "root":
            self.jobs += 1  # what another one left would have Slurm asked, which isn't there
            spec["process"]["env"] += [f"SLURM_JOB_ID={self.jobs}", "SLURM_STEP_ID=0", "SLURM_CHECKPOINT=preempt"]
            spec["process"]["env"].append(f"SLURM_CHECKPOINT_DIR={home(user)}/jobs")
        return spec

    def container(self, user: str, spec: Spec) -> Life:
        """A container with a bundle of its own, not started yet."""
        self.counter += 1
        life = Life(self, user, f"c{self.counter}", f"{home(user)}/bundle{self.counter}", spec)
        life.write()
        return life


def home(user: str) -> str:
    return "/root" if user == "root" else f"/home/{user}"


@dataclass
class Life:
    """One container through its dump and restore."""

    site: Site
    user: str
    name: str
    bundle: str
    spec: Spec
    globals: tuple[str, ...] = ()
    before: tuple[str, ...] = ()  # a program that starts the runtime, and its options
    process: subprocess.Popen[str] | None = None
    errors: list[Path] = field(default_factory=list)
    sent: str = ""

    @property
    def images(self) -> str:
        return f"{self.bundle}/checkpoints"

    def write(self) -> None:
        """The bundle, as the spec stands."""
        self.site.exec(["mkdir", "-p", self.bundle], self.user)
        text = json.dumps(self.spec)
        self.site.cluster.exec(self.site.node, ["tee", f"{self.bundle}/config.json"], self.user, input=text)

    def argv(self, *words: str) -> list[str]:
        return [*self.before, SHIM, "--root", f"{home(self.user)}/run", *self.globals, *words]

    def run(self, *options: str) -> None:
        self._start("run", "--bundle", self.bundle, *options, self.name)

    def restore(self, *options: str) -> None:
        self._start("restore", "--image-path", self.images, "--bundle", self.bundle, *options, self.name)

    def checkpoint(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The container ends by it, unless an option says otherwise."""
        argv = self.argv("checkpoint", "--image-path", self.images, *options, self.name)
        done = self.site.exec(argv, self.user, check)
        if self.process and done.returncode == 0 and "--leave-running" not in options:
            self.process.communicate(timeout=patient(20))
        return done

    def send(self, text: str) -> None:
        """Write to its standard input."""
        assert self.process and self.process.stdin
        self.process.stdin.write(text)
        self.process.stdin.flush()
        self.sent += text

    def look(self) -> dict[str, Any]:
        """What is seen inside."""
        self.send("look\n")
        assert self.process and self.process.stdout
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
        self.process.communicate(timeout=patient(20))
        return self.process.returncode

    def said(self) -> str:
        """What the runtime and the container have printed to standard error."""
        return "".join(path.read_text(errors="replace") for path in self.errors)

    def stop(self) -> None:
        """Whatever it is doing, it does no more."""
        self.site.exec(self.argv("delete", "--force", self.name), self.user, check=False)
        if self.process:
            self.process.kill()
            self.process.communicate(timeout=patient(20))
        wait_for(lambda: not self.site.exec(["pgrep", "-f", f"{self.name}$"], check=False).stdout, 10, "its end")

    def _start(self, *words: str) -> None:
        self._start_in([], *words)

    def _start_in(self, around: list[str], *words: str) -> None:
        """`around` is a command that starts the one that follows it."""
        path = self.site.cluster.shared / f"{self.name}.{len(self.errors)}.err"
        self.errors.append(path)
        argv = self.site.cluster.argv(self.site.node, [*around, *self.argv(*words)], self.user)
        with path.open("w") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
