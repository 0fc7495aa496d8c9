"""Slurm as its user sees it: the only module that asks it anything."""

from __future__ import annotations

import json
import os
import time

from oci_criu_shim import process
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _run(*argv: str) -> str:
    path = process.find(argv[0])
    if path is None:
        raise ShimError(f"no {argv[0]} in {process.PATH}", "install Slurm's client commands")
    status, text = process.output([path, *argv[1:]], os.environ)
    if status:
        raise ShimError(f"{' '.join(argv)}: {text.strip() or f'exit status {status}'}")
    return text


def is_preempted(job: int) -> bool:
    """Whether `job` still runs and its preemption has begun (grace time)."""
    record = _job(job)
    return "RUNNING" in record["job_state"] and _time(record["preempt_time"]) > 0


def _job(job: int) -> dict[str, Any]:
    text = _run("scontrol", "show", "job", str(job), "--json")
    try:
        jobs: list[dict[str, Any]] = json.loads(text)["jobs"]
        return jobs[0]
    except (ValueError, KeyError, IndexError):
        raise ShimError(f"scontrol show job {job} --json gave no job") from None


def _time(field: dict[str, Any] | int) -> int:
    """Seconds since the epoch; 0 where it is not set (data_parser: {set, infinite, number})."""
    if isinstance(field, dict):
        return int(field["number"]) if field["set"] else 0
    return field


def requeue(job: int, margin: int) -> None:
    """Requeue `job` under its own id, eligible again `margin` seconds from now.

    Without the second command slurmctld holds a requeued job back for the lifetime of a credential,
    121 s: batch_requeue_fini() leaves a begin time alone only where it lies in the future when the
    last step of the job is gone (slurmctld/job_mgr.c).
    """
    _run("scontrol", "requeue", str(job))
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + margin))
    _run("scontrol", "update", f"JobId={job}", f"StartTime={begin}")
