"""Keep a step alive until the batch script has exited; otherwise the script would see the step end and carry on."""

from __future__ import annotations

import os
import select
import time

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host.quick import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.host.signals import Signals
    from oci_criu_shim.slurm.tasks import Task

PATIENCE, GLANCE = 5.0, 0.02  # seconds
END_SECONDS = 300  # for Slurm to end a job that was requeued


def outlive(task: Task, signals: Signals) -> None:
    """Wait until the batch script of the job has exited; `signals` wake us.

    On the script's node, return soon after: slurmstepd wants to tell srun of the step's end. Slurm ends srun a second
    after the script, and slurmstepd tries for two more.
    """
    if task.is_batch:
        return
    while _runs(task):
        select.select([signals.reader], [], [], PATIENCE)
        signals.read()


def wait_for_requeue(signals: Signals) -> None:
    """Wait for the end of the job, which was requeued, so that its script runs nothing after this step."""
    limit = time.monotonic() + END_SECONDS
    while signal.SIGTERM not in signals.read() and (left := limit - time.monotonic()) > 0:
        select.select([signals.reader], [], [], left)


def _runs(task: Task) -> bool:
    from oci_criu_shim.slurm import controller

    try:
        job = controller.job(task.job)
    except ShimError:
        return True  # it will end us in any case
    if job.batch_host != task.node:
        return job.has_script
    while path(task.job):
        time.sleep(GLANCE)
    return False


def path(job: int) -> str:
    """Return the path of a job's batch script if a process of this user runs it on this node, or a subshell of it; else
    an empty string."""
    script = f"/job{job:05}/slurm_script"  # in slurmd's spool directory
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == os.geteuid():
                with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as stream:
                    if found := [word for word in stream.read().split("\0") if word.endswith(script)]:
                        return found[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ""
