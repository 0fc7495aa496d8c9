"""Tests that programs read their standard input once, whatever became of their job meanwhile."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.jobs import Job, Work, quoting

NONE = Work(ticks=0)
LINES = 130
STOPS = (5, 50, 100)
"""After these lines a program waits until it may go on."""

# `say` notes a line in the task's own file, which is cut back with the program.
LIBRARY = """
exec 3>>/shared/{name}.out.${{SLURM_PROCID:-0}}
stop() {{ case $1 in {stops}) until [ -e /shared/{name}.go.$1 ]; do sleep 0.1; done;; esac; }}
say() {{ echo "$1" >&3; stop $1; }}
lines() {{ n=0; while IFS= read -r line; do n=$((n + 1)); echo "$line" >&3; stop $n; done; say end; }}
"""

# One runs what it reads, one reads lines; one reads all at once and then tries again, one begins when the others end.
TASKS = """
. /shared/{name}.library
case $SLURM_PROCID in
    0) exec bash -s;;
    1) lines;;
    2) cat >&3; say end; stop 5; stop 50; stop 100; cat >&3; say over;;
    3) stop 5; stop 50; stop 100; cat >&3;;
esac
"""


@dataclass
class Programs:
    """What the programs of a job named `name` read, and wrote."""

    cluster: Cluster
    name: str
    content: str

    def prepare(self) -> None:
        for path in self.cluster.shared.glob(f"{self.name}.*"):
            path.unlink()
        self.path("input").write_text(self.content)
        stops = "|".join(map(str, STOPS))
        self.path("library").write_text(LIBRARY.format(name=self.name, stops=stops))
        self.path("tasks").write_text(TASKS.format(name=self.name))

    def path(self, suffix: str) -> Path:
        return self.cluster.shared / f"{self.name}.{suffix}"

    def written(self, task: int) -> str:
        path = self.path(f"out.{task}")
        return path.read_text() if path.exists() else ""

    def wait(self, task: int, lines: int) -> None:
        wait_for(lambda: self.written(task).count("\n") == lines, 60, f"line {lines} of task {task} of {self.name}")

    def go_on(self, stop: int) -> None:
        self.path(f"go.{stop}").touch()


@contextmanager
def displaced(job: Job, restored: int) -> Iterator[None]:
    """It is preempted before the block, and so many containers of it are restored."""
    high = job.displace()
    wait_for(lambda: said(job, "restored") == restored, 90, f"job {job.number} to be restored")
    job.wait_running()
    yield
    job.cluster.exec("ctl", ["scancel", high], check=False)


def said(job: Job, word: str) -> int:
    return sum(event.startswith(f"{word} ") for event in job.events())


def lines(first: str, size: int = 2000) -> str:
    """130 lines, of which a shell's `say` gets the numbers."""
    numbered = (f"say {number} #".ljust(size, "x") + "\n" for number in range(1, LINES + 1))
    return f"{first}\n" + "".join(numbered)


@contextmanager
def reading_a_file(cluster: Cluster, bundle: str, name: str, content: str) -> Iterator[tuple[Programs, Job]]:
    """A batch job in a container, which waits in its input file after the first lines."""
    programs = Programs(cluster, name, content)
    programs.prepare()
    options = (f"--container={bundle}", f"--input=/shared/{name}.input", *jobs.OPTIONS)
    job = jobs.submit(cluster, name, f". /shared/{name}.library; lines", NONE, *options)
    with quoting(job):
        job.wait_running()
        programs.wait(0, STOPS[0])
        yield programs, job


@pytest.mark.parametrize("size", [10, 2000])
def test_a_file_that_is_read_line_by_line(shim_cluster: Cluster, shim_bundle: str, size: int) -> None:
    """The shim has read more of it than the program, all of it if it is small."""
    with reading_a_file(shim_cluster, shim_bundle, f"input-{size}", lines("first", size)) as (programs, job):
        with displaced(job, 1):
            for stop in STOPS:
                programs.go_on(stop)
        assert job.wait_end() == "COMPLETED"
        assert programs.written(0) == f"{programs.content}end\n"


def test_a_file_that_was_changed(shim_cluster: Cluster, shim_bundle: str) -> None:
    """What was read of it is no more what the program has read."""
    with reading_a_file(shim_cluster, shim_bundle, "input-changed", lines("first")) as (programs, job):
        programs.path("input").write_text(programs.content.replace("say 3 ", "say 4 "))
        high = job.displace()
        wait_for(lambda: job.record()["restart_cnt"], 60, "the requeue")
        shim_cluster.exec("ctl", ["scancel", high], check=False)
        assert job.wait_end() == "FAILED"
        assert re.search(
            r"/shared/input-changed.input, is not what the container has read \d+ bytes of \(hint", job.output()
        )
        assert programs.written(0).count("\n") == STOPS[0]


def test_what_srun_sends_to_all_tasks(losing_cluster: Cluster, losing_bundle: str) -> None:
    """The job is preempted, and its next node fails after another checkpoint: since then it has read more."""
    name = "input-srun"
    programs = Programs(losing_cluster, name, lines(f". /shared/{name}.library"))
    programs.prepare()
    command = shlex.join(["sh", f"/shared/{name}.tasks"])
    script = f"exec srun -n4 --overcommit --container={losing_bundle} {command} </shared/{name}.input"
    job = jobs.submit(losing_cluster, name, script, NONE, *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        programs.wait(0, STOPS[0])
        programs.wait(1, STOPS[0])
        programs.wait(2, LINES + 2)
        with displaced(job, 4):
            programs.go_on(STOPS[0])
        programs.wait(0, STOPS[1])
        programs.wait(1, STOPS[1])
        job.cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number])
        programs.go_on(STOPS[1])
        programs.wait(0, STOPS[2])
        programs.wait(1, STOPS[2])
        node = job.nodes[-1]
        losing_cluster.kill(node)
        try:
            wait_for(lambda: job.record()["restart_cnt"] == 2, 60, "the requeue")
            job.cluster.exec("ctl", ["scontrol", "update", f"JobId={job.number}", "StartTime=now"])
            programs.go_on(STOPS[2])
            assert job.wait_end() == "COMPLETED"
        finally:
            losing_cluster.boot(node)
        numbers = "".join(f"{number}\n" for number in range(1, LINES + 1))
        content = programs.content
        assert [programs.written(task) for task in range(4)] == [
            numbers,
            f"{content}end\n",
            f"{content}end\nover\n",
            content,
        ]
