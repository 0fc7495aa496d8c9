"""Ask Slurm by its library, with pyslurm, if that is of Slurm's own version.

The library answers questions only. Commands go by Slurm's programs: pyslurm 24.11 can't name one task of an array, and
may take an earlier call's errno for the result of a signal (Job.send_signal()).
"""

from __future__ import annotations

import os
import re
import sys

from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import commands
from oci_criu_shim.slurm.job import ENDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from oci_criu_shim.slurm.job import Fields

    Answer = TypeVar("Answer")
    Pyslurm = Any
    """pyslurm, or an object of its own: it has no types."""

RUNS = ("PENDING", "RUNNING", "SUSPENDED")


def load() -> Pyslurm:
    """Import and return pyslurm; ShimError says why if it can't be used.

    It is not imported before its version is known to match: it loads any libslurmfull.so that it finds, and ends the
    process if that can't parse slurm.conf, as scontrol then ends, too.
    """
    version = _version()
    slurm = commands.run("scontrol", "--version").split()[-1]
    if _release(version) != _release(slurm):
        raise ShimError(f"pyslurm {version} is not for Slurm {slurm}")
    flags = sys.getdlopenflags()
    try:
        import pyslurm
    except (ImportError, SystemExit) as error:
        raise ShimError(f"pyslurm {version} can't be imported: {error}") from None
    finally:
        sys.setdlopenflags(flags)  # pyslurm changes them for all later imports
    return pyslurm


def _version() -> str:
    for directory in sys.path:
        try:
            with open(os.path.join(directory, "pyslurm/version.py"), encoding="utf-8") as stream:
                found = re.search(r'^__version__ = "(.+)"', stream.read(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return found[1]
    raise ShimError("there is no pyslurm")


def _release(version: str) -> list[int]:
    """Return major and minor number: Slurm's 24.05 is pyslurm's 24.5."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


class Library(commands.Commands):
    """Asks Slurm by its library; if that can't answer a question, by the commands."""

    def __init__(self, pyslurm: Pyslurm) -> None:
        self.pyslurm = pyslurm

    def describe(self) -> str:
        """Return pyslurm's name and version."""
        return f"pyslurm {self.pyslurm.__version__}"

    def job(self, number: int) -> Fields:
        """Return what Slurm says of a job."""
        found = self._ask(f"job {number}", lambda: self.pyslurm.Job.load(number))
        # It takes the first job of an array or heterogeneous job, and a flag instead of the state itself.
        if found.id != number or found.state not in RUNS + ENDED:
            return super().job(number)
        return _fields(found)

    def configuration(self) -> dict[str, str]:
        """Return {name: value} of slurm.conf as slurmctld has it."""
        pairs = self._ask("configuration", lambda: self.pyslurm.config().key_pairs())
        return {name.decode(): (value or b"").decode() for name, value in pairs.items()}

    def partitions(self) -> list[dict[str, str]]:
        """Return the partitions, by scontrol's names for what they have."""
        found = self._ask("partitions", lambda: self.pyslurm.Partitions.load())
        return [
            {
                "PartitionName": partition.name,
                "PriorityTier": str(partition.priority_tier or 0),
                "PreemptMode": partition.preempt_mode,
                "GraceTime": str(partition.preemption_grace_time or 0),
                "Default": "YES" if partition.is_default else "NO",
                "DefMemPerNode": _mebibytes(partition.default_memory_per_node),
                "DefMemPerCPU": _mebibytes(partition.default_memory_per_cpu),
            }
            for partition in found.values()
        ]

    def known_jobs(self, ended: bool) -> set[int]:
        """Return the numbers of the caller's jobs, with those that have ended if `ended`."""
        # By the older interface: the newer one has slurmctld send the jobs of all users.
        found = self._ask("jobs", lambda: self.pyslurm.job().find_user(os.geteuid()))
        return {number for number, job in found.items() if ended or job["job_state"] not in ENDED}

    def _ask(self, what: str, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except (ValueError, self.pyslurm.PyslurmError) as error:
            raise ShimError(f"{what}, by pyslurm: {error}") from None


def _mebibytes(value: int | str | None) -> str:
    return str(value) if isinstance(value, int) else "0"


def _fields(job: Pyslurm) -> Fields:
    # In an array, the number 0 is None, too; tasks that wait have none, and no record of their own.
    is_task = job.array_id and not job.array_tasks_waiting
    return {
        "job_id": job.id,
        "name": f"{job.array_id}_{job.array_task_id or 0}" if is_task else str(job.id),
        "states": [job.state],
        "restarts": job.requeue_count or 0,
        "preempt_time": job.preempt_time or 0,
        "suspend_time": job.suspend_time or 0,
        "end_time": job.end_time or 0,
        "limited": job.time_limit is not None,
        "partition": job.partition or "",
        "batch": job.is_batch_job,
        "batch_host": job.batch_host or "",
        "requeue": job.is_requeueable,
        "expedited": False,  # pyslurm 25.11 has no such field
        "node_count": job.num_nodes or 0,
        "required_nodes": job.required_nodes or "",
        "excluded_nodes": job.excluded_nodes or "",
        "features": ",".join(job.constraints),
        "comment": job.comment or "",
    }
