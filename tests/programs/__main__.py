"""Preempts real programs on a live cluster, and compares their results with those of runs without a preemption.

Writes docs/programs.md, if all of them were run: `make programs`, or `PROGRAM="redis go"` for some.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.process import run
from tests.harness.cluster.rootfs import NODE, ensure, with_packages
from tests.harness.cluster.settings import CONTROLLER
from tests.harness.jobs import Job, Work
from tests.harness.pages import DOCS
from tests.programs.table import PROGRAMS, Program

PAGE = DOCS / "programs.md"
SCRIPTS = Path(__file__).parent / "scripts"
PLACE = "/shared/programs"
SECONDS = 600
AT_WORK = 4.0
"""Seconds for which a program is at work before it is preempted."""
HEAD = """\
# Programs that were tried

Made by `make programs`: each program was preempted once while it was at work, and went on on another
node. *Right* means that its result is the one of a run without a preemption. The scripts are in
`tests/programs/scripts`, the programs Debian's.

| program | version | without a container | in a container |
|---|---|---|---|
"""
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
        """Return what the page says of a job that was preempted, and should have the result `wanted`."""
        if wanted is None:
            return "not run: it has no result without a preemption either"
        if not any(event.startswith("restored ") for event in self.events):
            found = [event for event in self.events if "not be checkpointed" in event or "cannot" in event]
            return f"not checkpointed: {found[-1]}" if found else f"not restored ({self.state})"
        if self.state != "COMPLETED":
            return f"lost ({self.state})"
        return "right" if self.result == wanted else "wrong"


class Site:
    """A cluster with the programs."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.place = cluster.shared / "programs"
        self.place.mkdir()
        shutil.copytree(SCRIPTS, self.place / "scripts")
        os.chown(self.place, 1000, 1000)
        jobs.prepare(cluster)
        self._make_root()
        self.bundles = {is_outside: self._make_bundle(is_outside) for is_outside in (False, True)}

    def _make_root(self) -> None:
        """Have the nodes' root file system as the containers' as well, without a copy."""
        root = ensure(with_packages(NODE, self.cluster.packages), lambda _: None)
        run(["cp", "--archive", "--link", str(root), str(self.place / "root")])
        (self.place / "root/shared").mkdir()

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

    def verdict(self, program: Program, name: str, way: str) -> str:
        """Run a program as a job, and once more to preempt it; return what the page says of it."""
        wanted = self._attempt(program, f"{name}-whole", way, is_preempted=False)
        found = self._attempt(program, f"{name}-preempted", way, is_preempted=True)
        verdict = found.verdict(wanted.result)
        print(f"{program.title}, {way}: {verdict}", flush=True)
        if verdict != "right":
            quoted = [*wanted.said.splitlines()[-5:], "preempted:", *found.said.splitlines()[-15:]]
            print(textwrap.indent("\n".join(quoted), "    "), flush=True)
        return verdict

    def _attempt(self, program: Program, name: str, way: str, is_preempted: bool) -> Outcome:
        directory = self.place / name
        directory.mkdir()
        words = [self.address() if word == "SERVER" else word for word in program.words]
        text = f"#!/bin/bash\ncd {PLACE}/{name} && exec {PLACE}/scripts/{program.script}.sh {' '.join(words)}\n"
        (directory / "job.sh").write_text(text)
        (directory / "job.sh").chmod(0o755)
        shutil.chown(directory, 1000, 1000)
        argv = ["sbatch", "--parsable", "-p", "low", "-n1", "-c2", "--output=/home/alice/%j.out", *jobs.OPTIONS]
        argv += [f"--container={self.bundles[program.is_outside]}"] if way == CONTAINED else []
        number = self.cluster.exec(CONTROLLER, [*argv, f"{PLACE}/{name}/job.sh"]).stdout.strip()
        job = Job(self.cluster, number, Work(), directory / "none")
        if is_preempted:
            self._preempt(job, directory)
        job.wait_end(SECONDS)
        result = directory / "result"
        found = result.read_text() if result.exists() else None
        return Outcome(found, job.state(), tuple(job.events()), job.output())

    def _preempt(self, job: Job, directory: Path) -> None:
        job.wait_running()
        wait_for(lambda: (directory / "begun").exists() or job.state() in jobs.ENDED, SECONDS, "its work to begin")
        time.sleep(AT_WORK)
        high = job.displace()

        def is_over() -> bool:
            return job.record()["restart_cnt"] == 1 or job.state() in jobs.ENDED

        wait_for(is_over, SECONDS, "its restart")
        self.cluster.exec(CONTROLLER, ["scancel", high])

    def address(self) -> str:
        """Return the address of the other node, the controller."""
        return self.cluster.exec(CONTROLLER, ["hostname", "--ip-address"]).stdout.split()[0]

    def version(self, program: Program) -> str:
        """Return the version of its first package, without Debian's revision; empty if it needs none."""
        if not program.packages:
            return ""
        argv = ["dpkg-query", "--show", "--showformat=${Version}", program.packages[0]]
        version = self.cluster.exec("n1", argv).stdout
        return re.sub(r"^\d+:|-[^-]*$|\+dfsg.*|\+ds.*", "", version)


@contextmanager
def serving(site: Site) -> Iterator[None]:
    """Have a server of numbers on the controller, which is the other node of some programs."""
    words = ["python3", f"{PLACE}/scripts/squares_server.py", site.address(), "18080"]
    argv, quiet = site.cluster.argv(CONTROLLER, words), subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet) as server:
        try:
            yield
        finally:
            server.kill()


def row(site: Site, program: Program, name: str, ways: Sequence[str]) -> list[str]:
    """Try a program; return its row of the page."""
    return [program.title, site.version(program), *(site.verdict(program, f"{name}-{way[:2]}", way) for way in ways)]


def main(argv: list[str]) -> int:
    """Try the programs of these scripts, or all; return 0 if all have the right result."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.programs", description=__doc__)
    parser.add_argument("scripts", nargs="*", help="of tests/programs/scripts, without .sh (default: all)")
    parser.add_argument("--way", choices=WAYS, help="(default: both)")
    options = parser.parse_args(argv)
    programs = [program for program in PROGRAMS if not options.scripts or program.script in options.scripts]
    ways = [options.way] if options.way else WAYS
    packages = tuple(sorted({name for program in PROGRAMS for name in program.packages}))
    try:
        with Cluster("programs", nodes=2, grace_time=60, packages=packages) as cluster:
            site = Site(cluster)
            with serving(site):
                rows = [row(site, program, str(number), ways) for number, program in enumerate(programs)]
    except (ClusterError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not options.scripts and not options.way:
        PAGE.write_text(HEAD + "".join(f"| {' | '.join(found)} |\n" for found in rows))
    return 0 if all(verdict == "right" for found in rows for verdict in found[2:]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
