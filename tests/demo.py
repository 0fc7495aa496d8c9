"""A job is preempted and goes on on another node, in a container and without one: `python3 -m tests.demo`.

Prints what happens as it happens, then a verdict; the last line is `demo: PASS` or begins with `demo: FAIL`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster, ClusterError
from tests.harness.cluster.waiting import patient
from tests.harness.jobs import Job, Work

GRACE_TIME = 20
SLURMS_DELAY = 120
"""How long Slurm holds a requeued job back where it is not told otherwise."""
EVENTS = ("checkpointed", "requeueing", "restored")


def main(argv: list[str]) -> int:
    """Run the demonstration; return 0 if neither job noticed anything."""
    options = parser().parse_args(argv)
    work = Work(options.ticks, options.tick, options.mib)
    try:
        wrong = demonstrate(options.name, work)
    except (ClusterError, subprocess.TimeoutExpired) as error:
        wrong = [str(error)]
    for failure in wrong[1:]:
        print(f"  {failure}")
    print(f"demo: FAIL {wrong[0]}" if wrong else "demo: PASS", flush=True)
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python3 -m tests.demo", description=__doc__)
    top.add_argument("--mib", type=int, default=256, help="memory of the job (default: %(default)s)")
    top.add_argument("--ticks", type=int, default=40, help="lines it writes (default: %(default)s)")
    top.add_argument("--tick", type=float, default=0.5, help="seconds between them (default: %(default)s)")
    top.add_argument("--name", default="demo", help="name of the cluster (default: %(default)s)")
    return top


def demonstrate(name: str, work: Work) -> list[str]:
    """Play the whole story on a cluster; return what is wrong. Raise ClusterError if it can't be played."""
    print(f"starting a cluster of a controller and two nodes ({name})", flush=True)
    logged = jobs.SIGNALS_LOGGED
    with Cluster(name, nodes=2, grace_time=GRACE_TIME, requeue_delay=SLURMS_DELAY, slurm_conf=logged) as cluster:
        bundle = jobs.prepare(cluster)
        if wrong := play(cluster, jobs.batch(cluster, bundle, "demo", work, *jobs.OPTIONS), "in a container"):
            return wrong
        print(flush=True)
        bare = jobs.submit(cluster, "demo-bare", "exec {command}", work, *jobs.OPTIONS)
        return play(cluster, bare, "without a container")


def play(cluster: Cluster, job: Job, how: str) -> list[str]:
    """Play the story of one job; return what is wrong."""
    before, story, work = leftovers.look(cluster), Story(job), job.work
    story.say(f"alice submitted job {job.number}, {how}: {work.mib} MiB, {work.ticks} ticks of {work.tick} s")
    try:
        act(story)
    except (ClusterError, subprocess.TimeoutExpired):
        print(job.quoted(), flush=True)
        raise
    wrong = [*job.failures(), *(f"left behind: {line}" for line in leftovers.left(cluster, before))]
    verdict(story, wrong)
    if wrong:
        print(job.quoted(), flush=True)
    return wrong


@dataclass
class Story:
    """A job and what was seen of it; times are this machine's, of the first sight."""

    job: Job
    state: str = ""
    events: int = 0
    times: dict[str, float] = field(default_factory=dict)
    to_commit: float | None = None
    """Seconds from Slurm's SIGTERM to the committed checkpoint."""
    begin: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begin:7.2f} s  {text}", flush=True)

    def look(self) -> None:
        """Print what is new."""
        record = self.job.record()
        state, node = " ".join(record["job_state"]), str(record["nodes"])
        if state != self.state:
            self.state = state
            self.say(f"job {self.job.number}: {state}{f' on {node}' if state == 'RUNNING' else ''}")
            # It is RUNNING SIGNALING and RUNNING again for a moment when it is preempted.
            if state == "RUNNING" and record["restart_cnt"] == len(self.job.nodes):
                self.job.nodes.append(node)
                self.note("running again" if "high" in self.times else "running")
        events = self.job.events()
        for event in events[self.events :]:
            self.say(f"{jobs.MARK}{event}")
            self.note(event.split()[0])
        self.events = len(events)

    def note(self, what: str) -> None:
        self.times.setdefault(what, time.monotonic())

    def until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Go on looking until condition holds. Raise ClusterError after timeout seconds, or when the job ends."""
        limit = patient(timeout)
        deadline = time.monotonic() + limit
        while True:
            self.look()
            if condition():
                return
            if self.state in jobs.ENDED:
                raise ClusterError(f"job {self.job.number} ended ({self.state}) before {what}")
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {limit:.0f} s in vain for {what}")
            time.sleep(0.05)


def act(story: Story) -> None:
    """Preempt the job and follow it to its end. Raise ClusterError if that takes too long."""
    job = story.job
    story.until(lambda: story.state == "RUNNING" and job.ticks() >= job.work.ticks // 5, 60, "its first ticks")
    story.note("high")
    committing = job.committing()
    high = job.displace()
    story.say(f"job {high} of partition high wants all of {job.nodes[-1]}")
    story.until(lambda: "running again" in story.times, GRACE_TIME + SLURMS_DELAY + 30, "its second start")
    story.to_commit = committing.time() - job.signalled()
    before = job.ticks()
    story.until(lambda: job.ticks() > before, 60, "a tick on its second node")
    story.say(f"job {job.number}: goes on with tick {before + 1} on {job.nodes[-1]}")
    job.cluster.exec("ctl", ["scancel", high])
    story.until(lambda: job.ticks() >= job.work.ticks, job.work.ticks * job.work.tick + 60, "its last tick")
    job.wait_end(30)
    story.look()


def verdict(story: Story, wrong: list[str]) -> None:
    """What to make of it, for people."""
    job, times = story.job, story.times
    facts = job.facts()
    print(f"\njob {facts.found}: {facts.state}, restarted {facts.restarts} time(s), ran on {', '.join(facts.nodes)}")
    print(f"ledger: {job.ticks()} of {facts.ticks} lines; numbers, process number, clock and memory judged")
    frozen = re.findall(r"frozen ([\d.]+) s", job.output())
    print(f"frozen: {', '.join(frozen) or '?'} s")
    print(f"SIGTERM -> checkpoint committed: {'?' if story.to_commit is None else f'{story.to_commit:.2f} s'}")
    for start, end, what in (
        ("requeueing", "running again", "requeued -> running again"),
        ("running again", "restored", "running again -> restored"),
    ):
        print(f"{what}: {f'{times[end] - times[start]:.2f} s' if {start, end} <= times.keys() else '?'}")
    wrong += [f"the runtime said nothing of {event!r}" for event in EVENTS if event not in times]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
