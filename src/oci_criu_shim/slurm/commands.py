"""Run Slurm's commands, and parse their answers."""

from __future__ import annotations

import json
import os
import re

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypedDict, TypeVar

    from oci_criu_shim.files import Document
    from oci_criu_shim.slurm.job import Fields

    Answer = TypeVar("Answer")

    class Part(TypedDict):
        """A job, the `task` of an `array` (0: of none), or the component `group` of the heterogeneous job `leader`."""

        job: int
        array: int
        task: int | None
        leader: int
        group: int | None
        uid: int
        states: list[str]
        partition: str
        nodes: int


PARTITION = ("PartitionName", "PriorityTier", "PreemptMode", "GraceTime", "Default")
MEMORY = ("DefMemPerNode", "DefMemPerCPU")
KNOWN = "`squeue --me --states=all` lists your jobs that it knows"
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # variables that name the cluster and the user


def program(name: str) -> str:
    """Return the path of a command; ShimError if there is none."""
    path = process.find(name)
    if path is None:
        raise ShimError(f"no {name} in {process.PATH}", "install Slurm's client commands")
    return path


def environment() -> dict[str, str]:
    """Return the environment of the commands.

    Variables that users have set for their own calls, such as SCANCEL_STATE, SQUEUE_FORMAT or SLURM_CLUSTERS, would
    have the commands do something else, or wait for an answer.
    """
    return {**process.ENVIRONMENT, **{name: os.environ[name] for name in KEPT if name in os.environ}}


def run(*argv: str) -> str:
    """Run a command, and return its output; ShimError if it fails."""
    path = program(argv[0])
    try:
        status, text, errors = process.output([path, *argv[1:]], environment())
    except OSError as error:
        raise ShimError(f"{path} can't be run: {error.strerror}") from None
    if status:
        raise ShimError(f"{' '.join(argv)}: {errors.strip() or text.strip() or f'exit status {status}'}")
    return text


class Commands:
    """Asks Slurm by its commands, for JSON, or for text if that has more. All raise ShimError if Slurm can't tell.

    `why` says why the commands are asked, for describe().
    """

    def __init__(self, why: str = "") -> None:
        self.why = why

    def describe(self) -> str:
        """Return a text that names what answers."""
        return f"its commands ({self.why})" if self.why else "its commands"

    def job(self, number: int) -> Fields:
        """Return a job."""
        # All jobs of an array or heterogeneous job are listed, if that has the number.
        found = [job for job in ask(str(number), _fields) if job["job_id"] == number]
        if not found:
            raise ShimError(f"Slurm knows no job {number}", KNOWN)
        return found[0]

    def parts(self, name: str) -> list[Part]:
        """Return the job of a number, or all of an array or heterogeneous job that has it; of 12_3 and 12+1, one."""
        number, *part = map(int, re.split("[_+]", name))
        found = ask(name, _part)
        which: Literal["group", "task"] = "group" if "+" in name else "task"
        if part:
            found = [one for one in found if [one[which]] == part]
        else:
            found = [one for one in found if number in (one["job"], one["leader"], one["array"])]
        if not found:
            raise ShimError(f"job {name} has not begun", "wait until it runs")  # it is not told apart until then
        return found

    def configuration(self) -> dict[str, str]:
        """Return {name: value} of slurm.conf, as slurmctld has it."""
        return dict(re.findall(r"^(\S+) *= (.*?) *$", run("scontrol", "show", "config"), re.MULTILINE))

    def partitions(self) -> list[dict[str, str]]:
        """Return {name: value} of each partition: the names of PARTITION, and of MEMORY, in MiB, 0 for none."""
        # As text: the JSON of Slurm 24.11 lacks PreemptMode.
        lines = run("scontrol", "show", "partition", "--oneliner").splitlines()
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("PartitionName=")]
        return [{name: values[name] for name in PARTITION} | _default_memory(values) for values in found]

    def grace_times(self) -> dict[str, int]:
        """Return {name: GraceTime in seconds} of each QOS.

        slurmdbd tells any user; slurmctld's answer lacks it (scontrol show assoc_mgr of Slurm 24.11).
        """
        text = run("sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=Name,GraceTime")
        found = re.findall(r"^(.+)\|(?:(\d+)-)?(\d+):(\d+):(\d+)$", text, re.MULTILINE)
        return {name: ((int(d or 0) * 24 + int(h)) * 60 + int(m)) * 60 + int(s) for name, d, h, m, s in found}

    def features(self) -> set[str]:
        """Return the features that nodes have (slurm.conf, Features)."""
        words = run("sinfo", "--noheader", "--format=%f").replace(",", " ").split()
        return set(words) - {"(null)"}

    def known_jobs(self, ended: bool) -> set[int]:
        """Return the ids of the user's jobs that slurmctld knows, including those that have ended if `ended`."""
        states = ["--states=all"] if ended else []
        return set(map(int, run("squeue", "--me", *states, "--array", "--noheader", "--format=%A").split()))

    def held(self) -> dict[int, str]:
        """Return {id: Slurm's reason} of the user's jobs that are held: they wait, with no priority."""
        text = run("squeue", "--me", "--states=pending", "--array", "--noheader", "--format=%A %Q %r")
        return {int(number): reason for number, reason in re.findall(r"^(\d+) 0 +(.*)$", text, re.MULTILINE)}


def _default_memory(values: dict[str, str]) -> dict[str, str]:
    return {name: values[name] if values.get(name, "").isdecimal() else "0" for name in MEMORY}


def ask(name: str, reads: Callable[[Document], Answer]) -> list[Answer]:
    """Return `reads` of the record of each job of that name, at least one."""
    text = run("scontrol", "show", "job", name, "--json")
    try:
        found = [reads(record) for record in json.loads(text)["jobs"]]
    except (ValueError, KeyError, TypeError):
        said = f"scontrol show job {name} --json gave none that this version reads"
        raise ShimError(said, "install the version of oci-criu-shim for this Slurm") from None
    if not found:
        raise ShimError(f"Slurm knows no job {name}", KNOWN)
    return found


def _part(record: Document) -> Part:
    leader = number_of(record["het_job_id"])
    return {
        "job": record["job_id"],
        "array": number_of(record["array_job_id"]),
        "task": record["array_task_id"]["number"] if record["array_task_id"]["set"] else None,
        "leader": leader or record["job_id"],
        "group": number_of(record["het_job_offset"]) if leader else None,
        "uid": record["user_id"],
        "states": record["job_state"],
        "partition": record["partition"],
        "nodes": number_of(record["node_count"]),
    }


def _fields(record: Document) -> Fields:
    task = record["array_task_id"]
    return {
        "job_id": record["job_id"],
        "name": f"{number_of(record['array_job_id'])}_{task['number']}" if task["set"] else str(record["job_id"]),
        "states": record["job_state"],
        "restarts": number_of(record["restart_cnt"]),
        "preempt_time": number_of(record["preempt_time"]),
        "suspend_time": number_of(record["suspend_time"]),
        "end_time": number_of(record["end_time"]),
        "limited": not record["time_limit"]["infinite"],
        "partition": record["partition"],
        "batch": bool(record["batch_flag"]),
        "batch_host": record["batch_host"],
        "requeue": bool(record["requeue"]),
        "expedited": "EXPEDITED_REQUEUE" in record["flags"],
        "node_count": number_of(record["node_count"]),
        "required_nodes": record["required_nodes"],
        "excluded_nodes": record["excluded_nodes"],
        "features": record["features"],
        "comment": record["comment"],
    }


def number_of(field: Document | int) -> int:
    """Return the number of a field of data_parser, {set, infinite, number}; 0 if it is not set."""
    if isinstance(field, dict):
        return int(field["number"]) if field["set"] else 0
    return field
