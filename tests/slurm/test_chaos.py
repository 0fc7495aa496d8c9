"""Jobs with checkpoints, of which something is killed at a random moment, lose nothing that was in a checkpoint.

CHAOS_ROUNDS is how many jobs there are, CHAOS_SEED makes them what they were in an earlier run, and CHAOS_VICTIMS names
what may be killed: each of VICTIMS by default.
"""

from __future__ import annotations

import os
import random
import re
import time
from dataclasses import dataclass
from itertools import product

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.jobs import Job, Work
from tests.harness.verdict import ledger_failures

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "6"))
SEED = int(os.environ.get("CHAOS_SEED", time.time()))
OPTIONS = ("--checkpoint=preempt,interval:2s", *jobs.OPTIONS[1:])
VICTIMS = "supervisor child criu worker helper slurmstepd slurmd node"
KINDS, MODES = ("batch", "step"), ("append", "offset")
MOMENTS = ("dump", "preemption", "restore")
LATEST = {"dump": 0.6, "preemption": 3.0, "restore": 0.4}
"""Seconds after the moment's beginning."""
BRIEF = ("child", "criu", "worker")
"""Those that are there only for a dump or a restore."""
UNSHAKEN = ("child", "criu", "worker", "helper", "slurmd")
"""Whichever of these is killed, the job goes on by itself."""
SAID = re.compile(r"^(?:oci-criu-shim: |srun: error: ).*", re.MULTILINE)
STATED = re.compile(r".*?: error: (?!.* could not be checkpointed and runs on: )")


@dataclass(frozen=True)
class Round:
    """What happens to one job."""

    victim: str
    moment: str
    delay: float
    kind: str
    mode: str
    reads: bool
    """Whether it gets input from a file, as the batch job or through srun."""

    @classmethod
    def all(cls) -> list[Round]:
        """Every victim at every moment, in an order of the seed's."""
        chance = random.Random(SEED)
        pairs: list[tuple[str, str]] = []
        while len(pairs) < ROUNDS:
            more = list(product(os.environ.get("CHAOS_VICTIMS", VICTIMS).split(), MOMENTS))
            chance.shuffle(more)
            pairs += more
        return [cls.of(victim, moment, chance) for victim, moment in pairs[:ROUNDS]]

    @classmethod
    def of(cls, victim: str, moment: str, chance: random.Random) -> Round:
        latest = 0.15 if victim in BRIEF else LATEST[moment]
        delay, reads = chance.uniform(0, latest), chance.choice((True, False))
        return cls(victim, moment, delay, chance.choice(KINDS), chance.choice(MODES), reads)


@dataclass
class Disaster:
    """One round, and what it took."""

    job: Job
    round: Round
    high: str = ""
    killed: str = ""
    dark: str = ""
    requeued: int | None = None
    """How often it had been started again when it was requeued by hand."""

    @property
    def cluster(self) -> Cluster:
        return self.job.cluster

    def strike(self) -> None:
        """Let the moment come, and kill the victim."""
        job, round = self.job, self.round
        node = job.wait_running()
        store = job.checkpoints().parent / ("batch.0" if round.kind == "batch" else "0.0")
        wait_for(lambda: any(store.glob("[1-9]")), 60, "a first checkpoint")
        if round.moment == "dump":
            wait_for(lambda: any(store.glob(".stage.*")), 60, "a dump")
        else:
            self.high = job.displace()
        if round.moment == "restore":
            wait_for(self.restarted, 60, "the requeue")
            node = job.wait_running()
        self.kill(node)

    def kill(self, node: str) -> None:
        if self.round.victim == "node":
            time.sleep(self.round.delay)
            self.killed = node
            self.take_power(node)
            return
        argv = ["python3", "-ISB", "/src/tests/harness/programs/victim.py", self.round.victim, self.job.number]
        argv += [str(self.round.delay), "6"]
        self.killed = self.cluster.exec(node, argv, "root").stdout.strip()
        if self.round.victim == "slurmstepd" and self.killed:
            # Slurm 24.11 does not notice, and can't clear up: that takes a boot. Our part is to leave nothing running.
            argv = ["sh", "-c", f"ls -d /run/oci-criu-shim/{self.job.number}/*/pid"]
            wait_for(lambda: self.cluster.exec(node, argv, check=False).returncode, 20, "the container's end")
            self.take_power(node)
        if self.round.victim == "slurmd":
            self.cluster.exec(node, ["sh", "-c", "setsid /usr/sbin/slurmd -D >/dev/null 2>&1 &"], "root")

    def take_power(self, node: str) -> None:
        self.dark = node
        self.cluster.kill(node)

    def restarted(self) -> bool:
        """Whether it has been requeued; it need not wait for the other job's end, nor as long as Slurm has it wait."""
        record = self.job.record()
        if "PENDING" in record["job_state"]:
            if self.high:
                self.ask("scancel", self.high)
                self.high = ""
            if record["hold"]:
                self.ask("scontrol", "release", self.job.number)
            if record["eligible_time"]["number"] > time.time() + 10:
                # At once would be too soon for the node that it ran on (Slurm 24.11: "Job credential revoked").
                self.ask("scontrol", "update", f"JobId={self.job.number}", "StartTime=now+3")
        return bool(record["restart_cnt"])

    def ask(self, *argv: str) -> None:
        self.cluster.exec("ctl", list(argv), "root", check=False)

    def ended(self) -> bool:
        """Whether it has. One that was stopped says why, and is requeued as its user would, once."""
        self.restarted()
        record, state = self.job.record(), self.job.state()
        if state not in jobs.ENDED or state == "COMPLETED":
            return state in jobs.ENDED
        if self.requeued is None:
            # If the supervisor itself was killed, only Slurm can tell.
            killed = "SIGNALED" in record["exit_code"]["status"]
            last = SAID.findall(self.job.output())[-1:]
            assert killed or any(map(STATED.match, last)), f"{state}, and the last thing said is not why: {last}"
            self.requeued = int(record["restart_cnt"])
        if self.requeued < record["restart_cnt"]:
            return True
        self.ask("scontrol", "requeue", self.job.number)
        return False

    def judge(self) -> None:
        """Wait for its end: all that the program did is there, once."""
        job = self.job
        wait_for(self.ended, 120, f"job {job.number} to end")
        assert job.state() == "COMPLETED"
        assert self.requeued is None or self.round.victim not in UNSHAKEN, "it did not go on by itself"
        # One that Slurm has started again after its end ends once more, as it did.
        ends = sorted(set(re.findall(r"^end .*", job.output(), re.MULTILINE)))
        assert ledger_failures(job.ledger(), "\n".join(ends), job.work.ticks, job.work.tick) == []


@pytest.mark.parametrize("number", range(ROUNDS))
def test_round(losing_cluster: Cluster, losing_bundle: str, number: int) -> None:
    round = Round.all()[number]
    submit = jobs.batch if round.kind == "batch" else jobs.step
    work = Work(ticks=20, tick=0.4, mode=round.mode, reads=round.reads)
    job = submit(losing_cluster, losing_bundle, f"chaos{number}", work, *OPTIONS)
    disaster = Disaster(job, round)
    print(f"CHAOS_SEED={SEED} round {number}: {round}")
    try:
        disaster.strike()
        disaster.judge()
    except (AssertionError, ClusterError) as error:
        pytest.fail(f"CHAOS_SEED={SEED} round {number}: {disaster}\n{error}\n{job.quoted()}")
    finally:
        stopped = "" if disaster.requeued is None else "; it stopped, and was requeued by hand"
        print(f"killed {disaster.killed or 'nothing'}{stopped}\n{job.output()}")
        losing_cluster.exec("ctl", ["scancel", "--user=alice"], "root", check=False)
        if disaster.dark:
            losing_cluster.boot(disaster.dark)
