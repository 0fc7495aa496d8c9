"""Real programs as jobs on a cluster, in a container or without one, and their preemption."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.process import run
from tests.harness.cluster.settings import CONTROLLER
from tests.harness.jobs import Job, Work
from tests.programs.table import Program

SCRIPTS = Path(__file__).parent / "scripts"
PLACE = "/shared/programs"
SECONDS = 600
AT_WORK = 3.0
"""Seconds for which programs are at work before they are preempted."""
BARE, CONTAINED = WAYS = ("without a container", "in a container")


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    result: str | None
    """None if there is none."""
    state: str
    events: tuple[str, ...]
    said: str

    def verdict(self, wanted: str | None) -> str:
        """Return what is said of a job that was preempted, and should have the result `wanted`."""
        if wanted is None:
            return "not run: it has no result without a preemption either"
        if not any(event.startswith("restored ") for event in self.events):
            found = [event for event in self.events if "not be checkpointed" in event or "cannot" in event]
            return f"not checkpointed: {found[-1]}" if found else f"not restored ({self.state})"
        if self.state != "COMPLETED":
            return f"lost ({self.state})"
        return "right" if self.result == wanted else "wrong"


@dataclass(frozen=True)
class Attempt:
    """A job that runs a program."""

    job: Job
    directory: Path

    def wait_work(self) -> None:
        """Wait until the program is at work, or the job has ended."""
        begun = self.directory / "begun"
        wait_for(lambda: begun.exists() or self._has_ended(), SECONDS, f"work in {self.directory}")
        self.job.nodes.append(str(self.job.record()["nodes"]))

    def wait_restart(self) -> None:
        """Wait until the job runs again, or has ended."""

        def has_restarted() -> bool:
            record = self.job.record()
            return (record["restart_cnt"] == 1 and "RUNNING" in record["job_state"]) or self._has_ended()

        wait_for(has_restarted, SECONDS, f"a restart in {self.directory}")

    def outcome(self) -> Outcome:
        """Wait for the job's end."""
        self.job.wait_end(SECONDS)
        result = self.directory / "result"
        found = result.read_text() if result.exists() else None
        return Outcome(found, self.job.state(), tuple(self.job.events()), self.job.output())

    def _has_ended(self) -> bool:
        return self.job.state() in jobs.ENDED


class Site:
    """A cluster with the programs."""

    def __init__(self, cluster: Cluster, root: Path) -> None:
        """Have the files of `root`, on the same file system, as the containers' root."""
        self.cluster = cluster
        self.place = cluster.shared / "programs"
        self.place.mkdir()
        shutil.copytree(SCRIPTS, self.place / "scripts")
        os.chown(self.place, 1000, 1000)
        jobs.share(cluster)
        run(["cp", "--archive", "--link", str(root), str(self.place / "root")])
        (self.place / "root/shared").mkdir()
        self.bundles = {is_outside: self._make_bundle(is_outside) for is_outside in (False, True)}

    def _make_bundle(self, is_outside: bool) -> str:
        """Make a bundle in which alice has her own number; return its path."""
        path = f"{PLACE}/{'outside' if is_outside else 'inside'}"
        self.cluster.exec("n1", ["mkdir", path])
        self.cluster.exec("n1", ["oci-criu-shim", "spec", "--keep-id"], cwd=path)
        file = self.cluster.shared.parent / path[1:] / "config.json"
        config = json.loads(file.read_text())
        config["root"] = {"path": f"{PLACE}/root", "readonly": True}
        config["process"] |= {"terminal": False, "cwd": "/tmp"}
        writable = ["/tmp", "/var/tmp", "/run"]
        config["mounts"] += [{"destination": point, "type": "tmpfs", "source": "tmpfs"} for point in writable]
        config["mounts"].append({"destination": "/shared", "type": "none", "source": "/shared", "options": ["rbind"]})
        if is_outside:  # of the node's, which has others below it, no restore can make it again
            config["mounts"] = [mount for mount in config["mounts"] if not mount["destination"].startswith("/sys")]
        kinds = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [kind for kind in kinds if kind["type"] != "network" or not is_outside]
        if not is_outside and not any(kind["type"] == "network" for kind in kinds):
            config["linux"]["namespaces"].append({"type": "network"})
        file.write_text(json.dumps(config))
        return path

    def go(self) -> None:
        """Let programs work, now and from now on. Until then, they wait when they are ready to (scripts/begin.sh)."""
        (self.place / "go").touch()

    def submit(self, program: Program, name: str, way: str, *options: str) -> Attempt:
        """Have a program run in a new directory of that name."""
        directory = self.place / name
        directory.mkdir()
        words = [self.address() if word == "SERVER" else word for word in program.words]
        text = f"#!/bin/bash\ncd {PLACE}/{name} && exec {PLACE}/scripts/{program.script}.sh {' '.join(words)}\n"
        (directory / "job.sh").write_text(text)
        (directory / "job.sh").chmod(0o755)
        shutil.chown(directory, 1000, 1000)
        argv = ["sbatch", "--parsable", "-p", "low", "-n1", "-c2", "--output=/home/alice/%j.out", *jobs.OPTIONS]
        argv += [f"--container={self.bundles[program.is_outside]}"] if way == CONTAINED else []
        number = self.cluster.exec(CONTROLLER, [*argv, *options, f"{PLACE}/{name}/job.sh"]).stdout.strip()
        return Attempt(Job(self.cluster, number, Work(), directory / "none"), directory)

    def preempt(self, attempts: Sequence[Attempt]) -> None:
        """Preempt programs on one node, all at once, when each is at work, and wait until they run elsewhere."""
        for attempt in attempts:
            attempt.wait_work()
        self.go()
        time.sleep(AT_WORK)
        high = attempts[0].job.displace(SECONDS)
        for attempt in attempts:
            attempt.wait_restart()
        self.cluster.exec(CONTROLLER, ["scancel", high])

    def address(self) -> str:
        """Return the address of the other node, the controller."""
        return self.cluster.exec(CONTROLLER, ["hostname", "--ip-address"]).stdout.split()[0]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Have a server of numbers on the controller, which is the other node of some programs."""
        words = ["python3", f"{PLACE}/scripts/squares_server.py", self.address(), "18080"]
        argv, quiet = self.cluster.argv(CONTROLLER, words), subprocess.DEVNULL
        with subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet) as server:
            try:
                yield
            finally:
                server.kill()
