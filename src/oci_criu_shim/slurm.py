"""Slurm as its user sees it: the only module that asks it anything.

By its commands and their JSON alone. pyslurm is no second way: for Slurm 24.11 it is a tag in its repository (PyPI has
18.8 and 25.11, Debian none) that takes minutes to compile; importing it takes 0.1 s, in which scontrol has answered
several times, and ends a process that finds no slurm.conf (pyslurm 24.11.0).
"""

from __future__ import annotations

import json
import os
import re
import time

from oci_criu_shim import process
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Where slurm.conf is: the site's own, or what a node without one was sent (configless Slurm).
CONF = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
END_BATCH_STEP = ("scancel", "--batch", "--signal=KILL")
MARGIN = 2  # seconds before the end of the grace time: for a signal to get to the batch step, and word of its end back


def _program(name: str) -> str:
    path = process.find(name)
    if path is None:
        raise ShimError(f"no {name} in {process.PATH}", "install Slurm's client commands")
    return path


def _run(*argv: str) -> str:
    status, text = process.output([_program(argv[0]), *argv[1:]], os.environ)
    if status:
        raise ShimError(f"{' '.join(argv)}: {text.strip() or f'exit status {status}'}")
    return text


def conf_directory() -> str | None:
    """The directory of this node's slurm.conf; None where there is none: clients would ask DNS, and wait."""
    named = os.environ.get("SLURM_CONF")
    for path in [named] if named else CONF:
        if os.path.exists(path):
            return os.path.dirname(path)
    return None


def configuration() -> dict[str, str]:
    """{name: value} of `scontrol show config`."""
    return dict(re.findall(r"^(\S+) *= (.*?) *$", _run("scontrol", "show", "config"), re.MULTILINE))


def partitions() -> list[dict[str, str]]:
    """{name: value} of each partition. As text: the JSON of Slurm 24.11 is without PreemptMode."""
    lines = _run("scontrol", "show", "partition", "--oneliner").splitlines()
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("PartitionName=")]


def is_preempted(job: int) -> bool:
    """Whether `job` still runs and its preemption has begun (grace time)."""
    record = _job(job)
    return "RUNNING" in record["job_state"] and _time(record["preempt_time"]) > 0


def goes_on(job: int, restarts: int) -> bool:
    """Whether `job` still runs, in the run of it after so many restarts, and nothing is about to end it."""
    record = _job(job)
    if int(record["restart_cnt"]) != restarts:
        return False
    return "RUNNING" in record["job_state"] and not _time(record["preempt_time"])


def node_of_script(job: int) -> str:
    """The node where the batch script of `job` runs; empty where it has none, or that has ended."""
    record = _job(job)
    return str(record["batch_host"]) if record["batch_flag"] and "RUNNING" in record["job_state"] else ""


def has_completed(job: int) -> bool:
    """Whether `job` has ended with status 0, and is not to run again."""
    return "COMPLETED" in _job(job)["job_state"]


def end_time(job: int) -> int:
    """The time limit of `job`, in seconds since the epoch; 0 where it has none."""
    record = _job(job)
    return 0 if record["time_limit"].get("infinite") else _time(record["end_time"])


def seconds_left(job: int) -> float:
    """Until Slurm ends `job`: at the end of its grace time, or at its time limit."""
    return _time(_job(job)["end_time"]) - time.time()


def is_requeueable(job: int) -> bool:
    """Whether `job` may be requeued (sbatch --requeue, or the site's JobRequeue)."""
    return bool(_job(job)["requeue"])


def grace_time(partition: str) -> int:
    """Seconds that a job of `partition` has when it is preempted."""
    found = [entry for entry in partitions() if entry["PartitionName"] == partition]
    return int(found[0].get("GraceTime", "0")) if found else 0


def _job(job: int) -> dict[str, Any]:
    text = _run("scontrol", "show", "job", str(job), "--json")
    try:
        jobs: list[dict[str, Any]] = json.loads(text)["jobs"]
        # All of an array, and of a heterogeneous job, where it has the number of that.
        return next(record for record in jobs if record["job_id"] == job)
    except (ValueError, KeyError, StopIteration):
        raise ShimError(f"scontrol show job {job} --json gave no job") from None


def _time(field: dict[str, Any] | int) -> int:
    """Seconds since the epoch; 0 where it is not set (data_parser: {set, infinite, number})."""
    if isinstance(field, dict):
        return int(field["number"]) if field["set"] else 0
    return field


def end_batch_step(job: str) -> None:
    """End the batch script of `job` (job.Task.name), which is in its grace time: slurmctld then requeues the job.

    `scontrol requeue` would leave slurmctld's mark of the grace time on the job, and when the job
    has run to its end the next time, the mark would have it requeued once more (Slurm 24.11,
    _slurm_rpc_complete_batch_script() and _job_complete() in slurmctld).
    """
    _run(*END_BATCH_STEP, job)


def end_batch_step_after_grace(job: int) -> None:
    """The same, just before slurmctld would requeue `job` at the end of its grace time, with that mark left on it.

    Returns at once; what waits is a process that the end of its step ends too.
    """
    record = _job(job)
    rest = _time(record["end_time"]) - MARGIN - time.time()
    argv = [_program(END_BATCH_STEP[0]), *END_BATCH_STEP[1:], _name(record)]
    process.spawn(["/bin/sh", "-c", 'sleep "$0" && exec "$@"', f"{max(rest, 0):.1f}", *argv], os.environ, {})


def run_on_nodes(job: int, argv: list[str]) -> int:
    """Run `argv` once on each node of a running job, beside its own steps, with our streams; srun's exit status as of
    os.waitstatus_to_exitcode. ShimError where it does not run."""
    record = _job(job)
    if "RUNNING" not in record["job_state"]:
        raise ShimError(f"job {job} does not run: it is {' '.join(record['job_state'])}")
    # A step of the job that this is called in would be made otherwise.
    env = {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("SLURM_")}
    env.update({name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ})
    nodes = str(record["node_count"]["number"])
    words = [f"--jobid={job}", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--quiet"]
    return process.wait(process.spawn([_program("srun"), *words, *argv], env, {1: 1, 2: 2}))


def requeue(job: int) -> None:
    """Have `job` start again; as good where that is under way already."""
    record = _job(job)
    if "PENDING" in record["job_state"]:
        return
    if _time(record["preempt_time"]):
        end_batch_step(_name(record))
    else:
        _run("scontrol", "requeue", _name(record))


def _name(record: dict[str, Any]) -> str:
    """What scontrol knows a job by: the number of an array's last task is that of the whole array."""
    task = record["array_task_id"]
    return f"{_time(record['array_job_id'])}_{task['number']}" if task["set"] else str(record["job_id"])


def remark(job: int, mark: str, text: str) -> None:
    """Have the job's comment end with `mark` and `text`, in place of what it said after `mark` before."""
    record = _job(job)
    users, _, _ = record["comment"].partition(mark)
    users = users.rstrip(" |")
    _run("scontrol", "update", f"JobId={_name(record)}", f"Comment={users}{' | ' if users else ''}{mark}{text}")


def has_another_node(job: int, node: str) -> bool:
    """Whether `job` can be requeued, and its partition has as many nodes as it wants without `node` and those that it
    excludes."""
    record = _job(job)
    if not (record["requeue"] and record["batch_flag"]) or record["required_nodes"]:
        return False
    _forget("SINFO_")
    words = ("sinfo", f"--partition={record['partition']}", "--Node", "--noheader", "--format=%N")
    nodes = set(_run(*words).split())
    return len(nodes - {node, *_expand(record["excluded_nodes"])}) >= _time(record["node_count"])


def _expand(nodes: str) -> list[str]:
    return _run("scontrol", "show", "hostnames", nodes).split() if nodes else []


def excluding(job: int, node: str) -> str:
    """What `scontrol update` takes, for a job that is pending, to keep `job` away from `node` too."""
    excluded = _job(job)["excluded_nodes"]
    return f"ExcNodeList={excluded},{node}" if excluded else f"ExcNodeList={node}"


def wanting(job: int, feature: str) -> str:
    """The same, to have `job` want `feature` besides the features that it wants; empty where it does already."""
    wanted = _job(job)["features"]
    if feature in re.split(r"[^\w.-]+", wanted):
        return ""
    if not wanted:
        return f"Features={feature}"
    return f"Features={wanted}&{feature}" if re.fullmatch(r"[\w.&-]+", wanted) else f"Features=({wanted})&{feature}"


def _forget(prefix: str) -> None:
    """The user's own filters, in the environment, are for his own eyes."""
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]


def known_jobs(ended: bool = True) -> set[int]:
    """The ids of the user's jobs that slurmctld knows: those to come, those that run, and where `ended`, for a while
    (MinJobAge) those that have ended, which could still be requeued."""
    _forget("SQUEUE_")
    states = ["--states=all"] if ended else []
    text = _run("squeue", "--me", *states, "--array", "--noheader", "--format=%A")
    return set(map(int, text.split()))
