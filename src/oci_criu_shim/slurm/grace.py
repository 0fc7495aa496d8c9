"""Find out what Slurm does with a preempted job whose batch script ends in its grace time.

slurmctld requeues the job, if the job and the PreemptMode allow that. It counts this, and holds a job that it has
requeued so MaxBatchRequeue times; only an admin can release that (_job_complete() and _handle_requeue_limit() in
slurmctld). `scontrol requeue` is not counted, but leaves slurmctld's mark of the grace time on the job. When the job
has run to its end the next time, Slurm 24.11 requeues it once more for that mark, which is counted, and only then does
the mark go (_slurm_rpc_complete_batch_script()). Slurm 26.05 has been seen not to.
"""

from __future__ import annotations

import re

from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm.commands import Commands, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.slurm.job import Job

BY_QOS = "preempt/qos"  # a PreemptType
DEFAULT_LIMIT = 5  # MaxBatchRequeue
ITSELF = re.compile(r" QOS=(\S+) JobState=.* Requeue=\d+ Restarts=\d+ BatchFlag=(\d+) ")
QOS = re.compile(r"^QOS=(.+)\(\d+\)\s*\n(?:(?!QOS=).*\n)*? *PreemptMode=(\S+)", re.MULTILINE)


class Fate:
    """Why Slurm does not start the job again (`obstacle`, empty if it does), and if it does, whether it counts that.

    If the job has been counted `count` times (1 from its submission on), and `limit` is MaxBatchRequeue, one more is
    spared: the job may once be requeued by `scontrol requeue`, and then needs it.
    """

    def __init__(self, obstacle: str = "", count: int = 1, limit: int = DEFAULT_LIMIT) -> None:
        self.obstacle = obstacle
        self.limit = limit
        self.counts = count + 1 < limit
        self.is_held = count >= limit  # when it has ended, if it is not counted now


def fate(found: Job) -> Fate:
    """Return the fate of a job that is to start again. Raise ShimError if Slurm can't tell."""
    if not found.is_batch:
        return Fate("it has no batch script")
    return if_preempted(found) if found.is_preempted else Fate()


def if_preempted(found: Job) -> Fate:
    """Return the fate of a batch job if it is preempted. Raise ShimError if Slurm can't tell."""
    site = Commands().configuration()
    if not found.is_requeueable:
        return Fate("JobRequeue=0" if site.get("JobRequeue") == "0" else "--no-requeue")
    number, name = found.fields["job_id"], found.name
    lines = run("scontrol", "show", "job", name, "--oneliner").splitlines()
    itself = next(filter(None, (ITSELF.search(line) for line in lines if line.startswith(f"JobId={number} "))), None)
    if itself is None:
        raise ShimError(f"scontrol show job {name} --oneliner gave none that this version reads")
    mode = _mode(found.fields["partition"], itself[1], site)
    if "REQUEUE" not in mode and not _is_led_by_another(number, itself[1], site):
        return Fate(f"PreemptMode={mode}")
    return Fate("", int(itself[2]), int(site.get("MaxBatchRequeue", DEFAULT_LIMIT)))


def _mode(partition: str, qos: str, site: dict[str, str]) -> str:
    """Return the PreemptMode that holds for a job (slurm_job_preempt_mode() in slurmctld)."""
    if site.get("PreemptType") == BY_QOS:
        own = dict(QOS.findall(run("scontrol", "show", "assoc_mgr", "flags=qos"))).get(qos, "OFF")
        return own if own != "OFF" else site.get("PreemptMode", "OFF")
    modes = {found["PartitionName"]: found["PreemptMode"] for found in Commands().partitions()}
    return modes.get(partition, "OFF")


def _is_led_by_another(number: int, qos: str, site: dict[str, str]) -> bool:
    """Return whether another component of a heterogeneous job has Slurm requeue all of it."""
    partitions = {part["partition"] for part in Commands().parts(str(number)) if part["group"] is not None}
    return any("REQUEUE" in _mode(partition, qos, site) for partition in partitions)
