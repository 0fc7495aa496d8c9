"""Jobs that keep a ledger (tests/harness/programs/ledger.py) on a cluster, and their preemption."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.bundle import make_bundle
from tests.harness.cluster.process import tail
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.cluster.waiting import patient
from tests.harness.verdict import Facts, failures

PROGRAMS = REPOSITORY / "tests/harness/programs"
PROGRAM = PROGRAMS / "ledger.py"
CHECKPOINTS = "/home/alice/ckpt"
OPTIONS = ("--checkpoint", f"--checkpoint-dir={CHECKPOINTS}", "--open-mode=append")
SIGNALS_LOGGED = ("SlurmctldDebug=verbose",)
"""With these lines of slurm.conf slurmctld notes its signals."""
MARK = "oci-criu-shim: "
SETTINGS = "/etc/oci-criu-shim/config.toml"
NOT_ITS_OWN = re.compile(r"srun: |slurmstepd|\[[\d:.T-]+\] |new[ug]idmap: ")
"""How lines of a job's output begin that are Slurm's (those of slurmstepd with the time, since 26.05), or are said of
subids."""
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


def share(cluster: Cluster) -> None:
    """Make CHECKPOINTS, and put the programs into /shared."""
    # Another node has written there, so the directory is shared, although its file system is this machine's own.
    cluster.exec("n1", ["mkdir", "-p", f"{CHECKPOINTS}/rates"])
    cluster.exec("n1", ["touch", f"{CHECKPOINTS}/rates/another"])
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, cluster.shared)


def prepare(cluster: Cluster) -> str:
    """Make a bundle of alice's that has /shared in it, and do what share() does; return the bundle's path."""
    share(cluster)
    path = make_bundle(cluster.home / "alice" / "bundle", 1000, 1000) / "config.json"
    spec = json.loads(path.read_text())
    shared = {"destination": "/shared", "type": "none", "source": "/shared", "options": ["rbind", "rw"]}
    spec["mounts"].append(shared)
    path.write_text(json.dumps(spec))
    return "/home/alice/bundle"


def prepare_mapped(cluster: Cluster) -> str:
    """Make the bundle of prepare() with the mappings of ids that runc needs; return its path."""
    path = prepare(cluster)
    file = cluster.home / "alice" / "bundle" / "config.json"
    config = json.loads(file.read_text())
    mapping = [{"containerID": 0, "hostID": 1000, "size": 1}]
    config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    file.write_text(json.dumps(config))
    return path


@contextmanager
def settings(cluster: Cluster, text: str) -> Iterator[None]:
    """Have a text as the site's settings on all nodes."""
    for node in cluster.compute_nodes():
        cluster.exec(node, ["tee", SETTINGS], "root", input=text)
    try:
        yield
    finally:
        for node in cluster.compute_nodes():
            cluster.exec(node, ["tee", SETTINGS], "root", input="")


@dataclass(frozen=True)
class Work:
    """What a job does."""

    ticks: int = 30
    """More than it does until it is preempted, on a busy machine too."""
    tick: float = 0.5
    mib: int = 16
    mode: str = "each"
    """How the program opens its ledger."""
    reads: bool = False
    """Whether it reads lines() at its standard input: more than a pipe has room for."""
    text: bool = False
    """Whether its memory can be compressed."""

    def command(self, ledger: str) -> str:
        options = [name for name in ("reads", "text") if getattr(self, name)]
        words = [self.ticks, self.tick, self.mib, self.mode, *options]
        return f"python3 /shared/{PROGRAM.name} {ledger} {' '.join(map(str, words))}"

    def lines(self) -> str:
        numbered = (f"line {number} ".ljust(200_000 // self.ticks, "x") for number in range(1, self.ticks + 1))
        return "".join(f"{line}\n" for line in numbered)


class Appearance:
    """A watch for the time at which a path appears, in seconds since the epoch.

    No file system keeps that: what is added to a directory later changes its times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: float | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def time(self, timeout: float = 60) -> float:
        """Raise ClusterError after timeout seconds."""
        return wait_for(lambda: self.seen, timeout, str(self.path)) or 0

    def _watch(self) -> None:
        while not self.path.exists():
            time.sleep(0.002)
        self.seen = time.time()


@dataclass
class Job:
    """A submitted job."""

    cluster: Cluster
    number: str
    work: Work
    ledger_path: Path
    nodes: list[str] = field(default_factory=list)
    """Where it was seen running, in order."""
    preemptions: int = 0

    def record(self) -> dict[str, Any]:
        """Return what Slurm says of the job now."""
        done = self.cluster.exec("ctl", ["scontrol", "show", "job", self.number, "--json"])
        found: dict[str, Any] = json.loads(done.stdout)["jobs"][0]
        return found

    def state(self) -> str:
        return " ".join(self.record()["job_state"])

    def output(self) -> str:
        return _text(self.cluster.home / "alice" / f"{self.number}.out")

    def ledger(self) -> str:
        return _text(self.ledger_path)

    def events(self) -> list[str]:
        """Return what the runtime has told the user, a line each."""
        return [line.removeprefix(MARK) for line in self.output().splitlines() if line.startswith(MARK)]

    def ticks(self) -> int:
        return self.ledger().count("\n")

    def wait_ticks(self, number: int, timeout: float = 60) -> None:
        """Wait until the job has done so many ticks. Raise ClusterError, at once if it has ended."""
        what = f"tick {number} of job {self.number}"
        wait_for(lambda: self.ticks() >= number or self._ended(what), timeout, what)

    def wait_running(self) -> str:
        """Return the node on which the job runs. Raise ClusterError if it does not start."""
        wait_for(lambda: self.state() == "RUNNING", 60, f"job {self.number} to run")
        node = str(self.record()["nodes"])
        self.nodes.append(node)
        return node

    def wait_end(self, timeout: float = 120) -> str:
        """Wait for the end of the job; return its last state."""
        wait_for(lambda: self.state() in ENDED, timeout, f"job {self.number} to end")
        return self.state()

    def displace(self, seconds: int = 60) -> str:
        """Preempt the job by one that wants the whole node for so long; return that one's number."""
        argv = ["sbatch", "--parsable", "-p", "high", "-w", self.nodes[-1], "--exclusive"]
        argv += ["--output=/dev/null", "--wrap", f"sleep {seconds}"]
        self.preemptions += 1
        return self.cluster.exec("ctl", argv).stdout.strip()

    def preempt(self) -> None:
        """Preempt the job once, and wait until it goes on elsewhere. Raise ClusterError if it does not."""
        high = self.displace()
        self.wait_restart()
        self.cluster.exec("ctl", ["scancel", high])
        wait_for(lambda: "idle" in self.cluster.node_states().values(), 30, "a free node")

    def wait_restart(self, timeout: float = 90) -> None:
        """Wait until the job goes on after its last preemption. Raise ClusterError if it does not."""
        what = f"restart {self.preemptions} of job {self.number}"
        wait_for(lambda: self.record()["restart_cnt"] == self.preemptions or self._ended(what), timeout, what)
        self.wait_running()
        self.wait_ticks(min(self.ticks() + 3, self.work.ticks))

    def signalled(self) -> float:
        """Return when slurmctld sent SIGTERM to the job, in seconds since the epoch: shortly before a node hears of it.

        Needs SIGNALS_LOGGED. Raise ClusterError if slurmctld's log does not say so.
        """
        log = self.cluster.logs("ctl")
        found = re.search(rf"^\[(\S+)\] job_signal: 15 of running JobId={self.number} ", log, re.MULTILINE)
        if not found:
            raise ClusterError(f"slurmctld's log has no SIGTERM to job {self.number}")
        return datetime.datetime.fromisoformat(found[1]).replace(tzinfo=datetime.UTC).timestamp()

    def checkpoints(self) -> Path:
        """Return the host's directory of the batch step's checkpoints."""
        return self.cluster.home.parent / CHECKPOINTS[1:] / self.number / "batch.0"

    def committing(self, seq: int = 1) -> Appearance:
        """Return a watch for the commit of a checkpoint of the batch step."""
        return Appearance(self.checkpoints() / str(seq))

    def facts(self) -> Facts:
        record = self.record()
        state = " ".join(record["job_state"])
        number, restarts = str(record["job_id"]), int(record["restart_cnt"])
        work, nodes = self.work, tuple(self.nodes)
        return Facts(work.ticks, work.tick, self.number, number, state, restarts, self.preemptions, nodes)

    def failures(self) -> list[str]:
        """Return everything that is wrong with the job after its end."""
        facts = self.facts()
        places = re.findall(r"^restored .* on (\S+)$", "\n".join(self.events()), re.MULTILINE)
        wrong = [] if places == self.nodes[1:] else [f"events: restored on {places}, ran on {self.nodes}"]
        return [*failures(self.ledger(), self.output(), facts), *wrong]

    def quoted(self) -> str:
        """Return the job's output and the nodes' logs, for the message of a failure."""
        logs = (f"{node}:\n{tail(self.cluster.logs(node), 40)}" for node in self.cluster.all_nodes())
        return "\n".join([f"job {self.number}, output:", tail(self.output(), 60), *logs])

    def _ended(self, what: str) -> bool:
        """Return False while the job has not ended. Raise ClusterError once it has, since `what` will never come."""
        if (state := self.state()) in ENDED and self.ticks() < self.work.ticks:
            raise ClusterError(f"job {self.number} ended ({state}) before {what}")
        return False


@contextmanager
def program(cluster: Cluster, node: str, name: str, *words: str, user: str = "root") -> Iterator[subprocess.Popen[str]]:
    """Run one of PROGRAMS on a node. It is `ready` before the block begins, and ended if the block fails."""
    argv = cluster.argv(node, ["python3", "-ISB", f"/src/tests/harness/programs/{name}.py", *words], user)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as running:
        assert running.stdout and running.stdout.readline() == "ready\n", f"{name} does not run on {node}"
        try:
            yield running
        except BaseException:
            running.kill()
            raise


@contextmanager
def held(job: Job, node: str, directory: str) -> Iterator[None]:
    """Stop CRIU in the middle of the dump into a task's directory that the block begins. Raise ClusterError if there
    is none.
    """
    with program(job.cluster, node, "hold", directory, str(patient(30))) as holding:
        yield
        if holding.wait():
            raise ClusterError(f"no dump into {directory} on {node} could be held")


@contextmanager
def quoting(job: Job) -> Iterator[None]:
    """Quote the job's output and the nodes' logs if the block fails."""
    try:
        yield
    except (AssertionError, ClusterError) as error:
        raise AssertionError(f"{error}\n{job.quoted()}") from None


def preempt_once(job: Job) -> None:
    """Preempt a job while it is at work. Raise AssertionError, with what was said, if anything is wrong at its end."""
    with quoting(job):
        job.wait_running()
        job.wait_ticks(4)
        job.preempt()
        job.wait_end()
        assert not job.failures()


def submit(cluster: Cluster, name: str, script: str, work: Work, *options: str) -> Job:
    """Submit a script as alice; {command} in it is the ledger program's command line."""
    ledger = cluster.shared / f"{name}.ledger"
    ledger.unlink(missing_ok=True)
    path = cluster.shared / f"{name}.sh"
    path.write_text("#!/bin/sh\n" + script.format(command=work.command(f"/shared/{ledger.name}")) + "\n")
    path.chmod(0o755)
    argv = ["sbatch", "--parsable", "-p", "low", "-n1", f"--job-name={name}", "--output=/home/alice/%j.out"]
    if work.reads:
        (cluster.shared / f"{name}.input").write_text(work.lines())
        argv.append(f"--input=/shared/{name}.input")
    number = cluster.exec("ctl", [*argv, *options, f"/shared/{path.name}"]).stdout.strip()
    return Job(cluster, number, work, ledger)


def batch(cluster: Cluster, bundle: str, name: str, work: Work, *options: str) -> Job:
    """A batch job whose script runs in the container."""
    return submit(cluster, name, "exec {command}", work, f"--container={bundle}", *options)


def step(cluster: Cluster, bundle: str, name: str, work: Work, *options: str) -> Job:
    """A plain batch job with a step in the container."""
    return submit(cluster, name, f"exec srun --container={bundle} {{command}}", work, *options)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
