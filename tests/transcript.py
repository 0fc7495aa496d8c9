"""Writes docs/first-quarter.md: what a user types, and what is printed, on a live cluster (`make transcript`).

A page that differs in its numbers only, from the one that is there, is left as it is.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.harness import image, jobs
from tests.harness.cluster import Cluster, ClusterError, wait_for
from tests.harness.cluster.settings import CONTROLLER
from tests.harness.pages import DOCS, README, block

PAGE = DOCS / "first-quarter.md"
JOB = "1"
STEPS = 20
SCRIPT = f"#!/bin/sh\nfor i in $(seq {STEPS}); do echo step $i; sleep 1; done\n"
HEAD = """\
# A user's first quarter of an hour

Made by `make transcript`, on a live cluster of two nodes: each command was typed on a terminal of
96 columns, and what it printed is below it. Alice has a program in an image, IMAGE, and wants it to
survive preemptions. [troubleshooting.md](troubleshooting.md#lines-that-are-slurms-or-cruns)
explains the lines that are neither hers nor ours.
"""
COLUMNS = 96


@dataclass(frozen=True)
class Scene:
    """What happens, then the commands that alice types."""

    prose: str
    commands: tuple[str, ...] = ()
    before: Callable[[Cluster], None] = lambda cluster: None


def page_of(cluster: Cluster) -> str:
    """Play all scenes; return the page. Raise ClusterError if something does not come to pass."""
    cluster.exec(CONTROLLER, ["tee", "job.sh"], input=SCRIPT)
    parts = [HEAD]
    for scene in scenes():
        scene.before(cluster)
        parts.append(textwrap.fill(scene.prose, 100, break_on_hyphens=False) + "\n")
        if said := "".join(typed(cluster, command) for command in scene.commands):
            parts.append(textwrap.indent(said, "    "))
    return "\n".join(parts)


def typed(cluster: Cluster, command: str) -> str:
    """Return a command with what it prints."""
    if "podman" in command:
        image.export(cluster, command)
        return f"$ {command}\n"
    done = cluster.exec(CONTROLLER, ["sh", "-ec", f"exec 2>&1\n{command}"], cwd=directory(command))
    return f"$ {command}\n{folded(done.stdout)}".rstrip() + "\n"


def folded(text: str) -> str:
    """Return a text as a terminal shows it."""
    lines = (line[at : at + COLUMNS] for line in text.splitlines() for at in range(0, max(len(line), 1), COLUMNS))
    return "".join(f"{line}\n" for line in lines)


def directory(command: str) -> str:
    """Return where a command is typed: `cd` lasts for the commands beside it only."""
    return "/home/alice/bundle" if command.startswith("crun ") else "/home/alice"


def lines(word: str) -> tuple[str, ...]:
    """Return the lines of the README's block that has this word."""
    return tuple(block(README, "Use", word).replace("JOBID", JOB).splitlines())


def scenes() -> list[Scene]:
    """Return the story; what the README tells users to type is taken from there."""
    bundle, (directory, submission, request) = lines("podman"), lines("sbatch ")
    return [
        Scene("She makes a bundle of the image, on a machine that has podman.", bundle),
        Scene(
            f"Her job counts to {STEPS}, a step a second. She submits it.",
            ("cat job.sh", directory, submission),
            shared,
        ),
        Scene(
            "It runs. What is in there, and can it be checkpointed at all?",
            (f"oci-criu-shim job exec {JOB} ps -ef", request),
            reaches(3),
        ),
        Scene(
            "Bob's jobs, in a partition of a higher priority, need both nodes: alice's job is preempted. It is written "
            "to disk, and waits in the queue.",
            ("squeue --me", f"oci-criu-shim job status {JOB}"),
            preempted,
        ),
        Scene(
            "When one of Bob's jobs ends, Slurm starts hers again, on the other node.",
            ("squeue --me", f"cat slurm-{JOB}.out"),
            restored,
        ),
        Scene(
            "These are its checkpoints:",
            (
                f"oci-criu-shim ckpt list {JOB}",
                f"oci-criu-shim ckpt show {JOB}:2 | head -n 22",
            ),
        ),
        Scene(
            "It ends as if nothing had been. A picture of it goes into her report.",
            (
                f"tail -n 3 slurm-{JOB}.out",
                f"oci-criu-shim job status {JOB}",
                f"oci-criu-shim job status {JOB} --timeline job.html",
            ),
            ended,
        ),
    ]


def output(cluster: Cluster) -> str:
    return cluster.exec(CONTROLLER, ["cat", f"slurm-{JOB}.out"], check=False).stdout


def state(cluster: Cluster) -> str:
    return cluster.exec(CONTROLLER, ["squeue", "--noheader", "--format=%T", f"--jobs={JOB}"], check=False).stdout


def reaches(step: int) -> Callable[[Cluster], None]:
    return lambda cluster: said(cluster, f"step {step}\n")


def said(cluster: Cluster, text: str) -> None:
    wait_for(lambda: text in output(cluster), 60, f"{text!r} in the job's output")


def shared(cluster: Cluster) -> None:
    """Have another node known that writes to /shared, whose file system is this machine's own."""
    cluster.exec(CONTROLLER, ["mkdir", "-p", "/shared/alice/checkpoints/rates"])
    cluster.exec(CONTROLLER, ["touch", "/shared/alice/checkpoints/rates/another"])


def preempted(cluster: Cluster) -> None:
    """Submit bob's jobs: one for n2, which is free, and one for n1, where alice's runs. Wait until hers waits."""
    for node in ("n2", "n1"):
        argv = ["sbatch", "-p", "high", "-w", node, "--exclusive", "--output=/dev/null", "--wrap", "sleep 600"]
        cluster.exec(CONTROLLER, [*argv, f"--job-name={node}"], "bob")
    wait_for(lambda: state(cluster) == "PENDING\n", 60, "the requeue")


def restored(cluster: Cluster) -> None:
    cluster.exec(CONTROLLER, ["scancel", "--name=n2"], "bob")
    said(cluster, f"{jobs.MARK}restored ")
    wait_for(lambda: state(cluster) == "RUNNING\n", 60, "the second run")


def ended(cluster: Cluster) -> None:
    said(cluster, f"step {STEPS}\n")
    wait_for(lambda: not state(cluster).strip() or "COMPLETED" in state(cluster), 60, "its end")


def shape(text: str) -> list[str]:
    """Return the lines of a page without what differs each time: numbers, their columns, how often and when one comes.

    A program's first line may come before or after those of whoever made its container.
    """
    return sorted({re.sub(r"\s+", " ", re.sub(r"[\d.:TZ-]*\d[\d.:TZ-]*", "0", line)) for line in text.splitlines()})


def commands(page: Path) -> list[str]:
    """Return what is typed in a page."""
    return re.findall(r"^    \$ (.*)$", page.read_text(), re.MULTILINE)


def main() -> int:
    with Cluster("transcript", requeue_delay=5) as cluster:
        text = page_of(cluster)
    if PAGE.exists() and shape(PAGE.read_text()) == shape(text):
        print(f"{PAGE.name} is as it was, but for numbers")
        return 0
    PAGE.write_text(text)
    print(f"{PAGE.name} is written anew")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"transcript: {error}")
