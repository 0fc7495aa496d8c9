"""A Slurm cluster of namespaces on this machine, for tests and for trying things by hand.

Use it as

    with Cluster("demo", nodes=2) as cluster:
        cluster.exec("ctl", ["srun", "-N2", "hostname"])
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from . import bundle, cgroups
from .client import Lifeline, ask, start_keeper, take_down
from .errors import ClusterError
from .process import run, tail
from .rootfs import NODE, Progress, ensure, with_packages
from .settings import CONTROLLER, Instance, Settings, load, read_json
from .sweep import names
from .waiting import wait_for


def quiet(_: str) -> None:
    """Progress of no interest."""


def become(user: str, cwd: str | None) -> tuple[str, ...]:
    """Return the prefix of an argv that runs the program as a user, in `cwd` or in the user's home directory."""
    home = cwd or ("/root" if user == "root" else f"/home/{user}")
    # Killing nsenter from outside must not leave the program behind: it is in another pid namespace.
    words = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", "--pdeathsig=KILL")
    return (*words, "--", "env", f"--chdir={home}", "LANG=C.UTF-8")


@dataclass(frozen=True)
class Cluster(Settings):
    """A cluster by its parameters. As a context manager it is up inside the block and nothing is left after it."""

    _stack: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(closing(self._start(quiet)))
            self.wait_ready()
            self._stack.push(stack.pop_all())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def up(self, progress: Progress = quiet) -> None:
        """Start the cluster; it stays until down(). Raise ClusterError, also if it is up already."""
        with closing(self._start(progress)) as lifeline:
            self.wait_ready()
            lifeline.keep()

    @classmethod
    def attach(cls, name: str) -> Cluster:
        """Return the running cluster of this name. Raise ClusterError if there is none."""
        instance = Instance(name)
        try:
            return cls(**load(read_json(instance.settings)))
        except FileNotFoundError:
            raise ClusterError(f"no cluster {name}", f"running: {' '.join(names()) or 'none'}") from None

    @property
    def instance(self) -> Instance:
        return Instance(self.name)

    @property
    def shared(self) -> Path:
        """The host's path of /shared."""
        return self.instance.shared

    @property
    def home(self) -> Path:
        """The host's path of /home."""
        return self.instance.home

    @property
    def conf(self) -> Path:
        """The host's path of /etc/slurm, the same on every node and writable."""
        return self.instance.conf

    def node_pid(self, node: str) -> int:
        """Return the host's process number of the node's init. Raise ClusterError if the node is not up."""
        try:
            return int(read_json(self.instance.node_state(node))["pid"])
        except FileNotFoundError:
            raise ClusterError(f"{node} of cluster {self.name} is not up", "see `list`") from None

    def argv(self, node: str, argv: Sequence[str], user: str = "alice", cwd: str | None = None) -> list[str]:
        """The host's command line that runs argv in all namespaces and control groups of a node as user."""
        inside = ("nsenter", f"--target={self.node_pid(node)}", "--all", "--")
        return [*cgroups.enter(cgroups.groups(self.name, node)), *inside, *become(user, cwd), *argv]

    def exec(
        self,
        node: str,
        argv: Sequence[str],
        user: str = "alice",
        check: bool = True,
        timeout: float | None = 60,
        input: str | None = None,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run argv on a node.

        Raise ClusterError for a status other than 0 (with check), subprocess.TimeoutExpired after `timeout` seconds of
        an idle machine.
        """
        done = run(self.argv(node, argv, user, cwd), check=False, input=input, timeout=timeout)
        if check and done.returncode:
            said = tail(done.stdout + done.stderr)
            raise ClusterError(f"{node}: {' '.join(argv)}: status {done.returncode}\n{said}")
        return done

    def kill(self, node: str) -> None:
        """Power loss of a node."""
        ask(self.instance, {"do": "kill", "node": node})

    def boot(self, node: str) -> None:
        """Power a node on again and wait until Slurm would start jobs on it."""
        since = int(time.time())
        ask(self.instance, {"do": "boot", "node": node})
        if node != CONTROLLER:
            what = f"slurmd of {node} to register"
            wait_for(lambda: self._registered(node) >= since, self.ready_timeout, what)
        self.wait_ready()

    def reconfigure(self) -> None:
        """Have Slurm read its files again, and wait until every slurmd has. Raise ClusterError if one does not."""
        before = self._begun()
        self.exec(CONTROLLER, ["scontrol", "reconfigure"], "root")

        def is_done() -> bool:
            return all(when not in ("", before[node]) for node, when in self._begun().items())

        wait_for(is_done, 30, "every slurmd to begin anew")
        self.wait_ready()

    def down(self) -> None:
        """Take the cluster down, or sweep what a dead one left. Do nothing if there is nothing."""
        take_down(self.name)

    def logs(self, node: str) -> str:
        """All logs of a node, each under a line with its name."""
        texts = {path.name: path.read_text(errors="replace") for path in self.instance.log(node).glob("*.log")}
        return "".join(f"==> {name} <==\n{text}" for name, text in sorted(texts.items()) if text)

    def node_states(self) -> dict[str, str]:
        """State of every compute node as Slurm sees it ("idle", "mixed", "down*", …); empty if slurmctld is silent."""
        pairs = (line.split() for line in self._query("sinfo", "-hN", "-p", "low", "-o", "%N %T").splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def wait_ready(self) -> None:
        """Wait until every node that is up can run jobs. Raise ClusterError quoting the logs."""
        try:
            wait_for(self._is_ready, self.ready_timeout, f"cluster {self.name}")
        except ClusterError as error:
            raise ClusterError(f"{error.message}\n{self._last_words()}", error.hint) from None

    def _registered(self, node: str) -> int:
        """When the slurmd that slurmctld knows of on this node was started, in seconds since 1970; 0 if never."""
        found = re.search(r"SlurmdStartTime=(\d+)", self._query("scontrol", "show", "node", node))
        return int(found[1]) if found else 0

    def _begun(self) -> dict[str, str]:
        """Return when each slurmd wrote its pid. One in the foreground does so whenever it has read its files."""
        stat = ["stat", "--format=%y", "/run/slurmd.pid"]
        return {node: self.exec(node, stat, "root", check=False).stdout for node in self.compute_nodes()}

    def _query(self, *argv: str) -> str:
        """Return what a client of slurmctld says; nothing if slurmctld does not answer."""
        try:
            done = self.exec(CONTROLLER, ["env", "SLURM_TIME_FORMAT=%s", *argv], "root", check=False, timeout=20)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def _is_ready(self) -> bool:
        states = self.node_states()
        running = [node for node in self.compute_nodes() if self.instance.node_state(node).exists()]
        return all(states.get(node) in ("idle", "mixed", "allocated", "completing") for node in running)

    def _last_words(self) -> str:
        quoted = (f"{node}: {self.node_states().get(node, '')}\n{tail(self.logs(node))}" for node in self.all_nodes())
        return "\n".join(quoted)

    def _start(self, progress: Progress) -> Lifeline:
        recipes = [with_packages(NODE, self.packages), *([bundle.unpacked(self.unpacked)] if self.unpacked else [])]
        roots = [str(ensure(recipe, progress)) for recipe in recipes]
        return start_keeper(self.instance, {"settings": self.dump(), "roots": roots}, progress)
