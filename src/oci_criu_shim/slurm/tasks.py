"""Tell the Slurm task of a container from its environment."""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_DIRECTORY = "/run/oci-criu-shim"  # of jobs on their nodes (spank/paths.h)
BATCH_SCRIPT = "/tmp/slurm/startup"  # the batch script's path in a container
BATCH_STEP = 4294967291  # SLURM_BATCH_SCRIPT of slurm.h


class Task:
    """One task of a step, from the environment that Slurm and its plugin give to a container."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.job = _number(environment, "SLURM_JOB_ID")
        self.step = _step(environment)
        self.rank = _number(environment, "SLURM_PROCID")
        self.local = _number(environment, "SLURM_LOCALID")  # the task's number on this node
        self.restarts = _number(environment, "SLURM_RESTART_COUNT")  # how often the job was requeued
        self.partition = environment.get("SLURM_JOB_PARTITION", "")
        self.qos = environment.get("SLURM_JOB_QOS", "")
        nodes = "SLURM_JOB_NUM_NODES" if environment.get("SLURM_JOB_NUM_NODES") else "SLURM_NNODES"
        self.nodes = max(_number(environment, nodes), 1)
        self.end = _number(environment, "SLURM_JOB_END_TIME")  # time limit in seconds since the epoch; 0: unknown
        each = _number(environment, "SLURM_MEM_PER_CPU") * _number(environment, "SLURM_CPUS_ON_NODE")
        self.memory = _number(environment, "SLURM_MEM_PER_NODE", each) << 20  # bytes on this node; 0: unknown
        self.when = environment.get("SLURM_CHECKPOINT", "off")  # --checkpoint; "default": without a value
        self.interval = environment.get("SLURM_CHECKPOINT_INTERVAL")  # --checkpoint-interval
        self.directory = environment.get("SLURM_CHECKPOINT_DIR")  # --checkpoint-dir
        self.restart_dir = environment.get("SLURM_RESTART_DIR")  # --restart-dir
        self.keep = _positive(environment.get("SLURM_CHECKPOINT_KEEP"))  # --checkpoint-keep; 0: not given
        self.tcp = _closing(environment.get("SLURM_CHECKPOINT_TCP"))  # --checkpoint-tcp; empty: not given
        self.mpi = environment.get("SLURM_MPI_TYPE", "")  # srun's --mpi, or the site's MpiDefault
        self.rerun = environment.get("SLURM_CHECKPOINT_RERUN") == "yes"  # steps that have finished run again
        # What Slurm's commands take for this job alone: the number of an array's last task names the array, too.
        array = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        self.name = "_".join(map(str, array)) if all(array) else str(self.job)
        self.job_name = environment.get("SLURM_JOB_NAME", "")
        self.node = environment.get("SLURMD_NODENAME", os.uname().nodename)  # Slurm's name of this node
        self.cluster = environment.get("SLURM_CLUSTER_NAME", "")

    @property
    def key(self) -> str:
        """`<job>/<step>.<task>`: the place of this task's checkpoints in the store."""
        return f"{self.job}/{self.step_name}.{self.rank}"

    @property
    def is_batch(self) -> bool:
        """Whether this is the job's batch step."""
        return self.step == BATCH_STEP

    @property
    def step_name(self) -> str:
        """Slurm's name of the step: `batch`, or its number."""
        return "batch" if self.is_batch else str(self.step)

    @property
    def asked(self) -> bool:
        """Whether this step is to be checkpointed."""
        return self.when != "off"

    def describe(self) -> str:
        """`job 12 step 0 task 3`, for messages."""
        return f"job {self.job} step {self.step_name} task {self.rank}"


def of(environment: Mapping[str, str]) -> Task | None:
    """Return the task of a container with this environment; None outside Slurm.

    Raise ShimError if one of Slurm's variables is not a number.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    try:
        return Task(environment)
    except ValueError as error:
        raise ShimError(f"the environment names no Slurm task: {error}") from None


def _step(environment: Mapping[str, str]) -> int:
    """Return the number of the step, which has 32 bits and no sign: that of a batch step is -5 since Slurm 26.05, and
    missing before."""
    text = environment.get("SLURM_STEP_ID", str(BATCH_STEP))
    number = _number({"SLURM_STEP_ID": text.removeprefix("-")}, "SLURM_STEP_ID")
    return (-number if text.startswith("-") else number) % 2**32


def _number(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    """Return a variable's number; raise ValueError, in words, if it has another text."""
    text = environment.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ValueError(f"{name} is a number, not {text!r}")
    return int(text)


def _positive(text: str | None) -> int:
    if text is None:
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise ShimError(f"--checkpoint-keep is a number of checkpoints, at least 1, not {text!r}")
    return int(text)


def _closing(text: str | None) -> str:
    if text is None:
        return ""
    from oci_criu_shim import values

    if text not in values.CONNECTIONS:
        raise ShimError(f"--checkpoint-tcp {values.TCP[0]}, not {text!r}")
    return text
