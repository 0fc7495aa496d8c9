"""The end of a job's batch script, which comes before that of its steps: it would take theirs for done, and go on."""

from __future__ import annotations

import os
import select
import time

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.host.signals import Signals
    from oci_criu_shim.slurm.tasks import Task

PATIENCE, GLANCE = 5.0, 0.02  # seconds


def outlive(task: Task, signals: Signals) -> None:
    """Don't end before it.

    But on its node don't end much later: slurmstepd wants to tell srun of it, which Slurm ends a second after the
    script, and tries that for two more.
    """
    if task.is_batch:
        return
    while _runs(task):
        select.select([signals.reader], [], [], PATIENCE)
        signals.read()


def _runs(task: Task) -> bool:
    from oci_criu_shim.slurm import controller

    try:
        job = controller.job(task.job)
    except ShimError:
        return True  # it will end us in any case
    if job.batch_host != task.node:
        return job.has_script
    while _is_here(f"/job{task.job:05}/slurm_script"):  # in slurmd's spool directory
        time.sleep(GLANCE)
    return False


def _is_here(script: str) -> bool:
    """Whether a process of ours, of which subshells are some, runs `script` on this node."""
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == os.geteuid():
                with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as stream:
                    if any(word.endswith(script) for word in stream.read().split("\0")):
                        return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False
