"""A container as the first step of job 1, which is checkpointed as its job would have it, and whose node fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.node.support import Life, home

KEEP = ["python3", "-I", "/src/tests/harness/programs/keep.py"]


@contextmanager
def in_a_job(life: Life, when: str = "preempt", variables: Sequence[str] = ()) -> Iterator[None]:
    """It runs in the block, with more variables. Its checkpoints go with it."""
    environment = ["SLURM_JOB_ID=1", "SLURM_STEP_ID=0", f"SLURM_CHECKPOINT={when}", *variables]
    life.spec["process"]["env"] = ["PATH=/usr/bin:/bin", *environment, f"SLURM_CHECKPOINT_DIR={home(life.user)}/jobs"]
    life.write()
    life.site.exec(["mkdir", "-p", f"{home(life.user)}/jobs"], life.user)
    try:
        with life.site.lending(life.user):
            life.run()
            yield
    finally:
        life.stop()
        # The job's epilog would remove these two of the run directory. NFS takes a moment to let go of what was open.
        script = "until rm -rf jobs/1 run/kept.* run/requeued; do sleep 0.2; done"
        life.site.exec(["sh", "-c", f"cd {home(life.user)} && {script}"], life.user)


def store(life: Life) -> str:
    """Return the directory of its checkpoints."""
    return f"{home(life.user)}/jobs/1/0.0"


def keep(life: Life, *, runs_on: bool = True, check: bool = True) -> str:
    """Checkpoint it; what was said."""
    helper = "" if life.user == "root" else f"{home(life.user)}/run/helper.0.sock"
    argv = [*KEEP, f"{home(life.user)}/run", life.name, store(life), helper, "yes" if runs_on else "no"]
    return life.site.exec(argv, life.user, check).stderr


def supervisor(life: Life) -> str:
    """Its pid."""
    return life.site.exec(["cat", f"{home(life.user)}/run/{life.name}/pid"]).stdout.strip()


def kill(life: Life) -> None:
    """As when its node fails: its supervisor first, so that nobody clears up."""
    pid = life.state()["pid"]
    life.site.exec(["kill", "-KILL", supervisor(life)])
    life.site.exec(["kill", "-KILL", str(pid)], check=False)
    life.stop()


def go_on(life: Life) -> None:
    """As the job's next run, whose input begins again."""
    restarts = sum(entry.startswith("SLURM_RESTART_COUNT") for entry in life.spec["process"]["env"]) + 1
    life.spec["process"]["env"].append(f"SLURM_RESTART_COUNT={restarts}")
    life.write()
    life.run()
    sent, life.sent = life.sent, ""
    life.send(sent)
