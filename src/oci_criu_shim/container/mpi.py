"""MPI in a container that may be checkpointed: its launcher starts the ranks inside, and Slurm starts none.

A launcher that finds Slurm's variables would have srun start the ranks, since the container has another name than the
node: they would not be in the container, nor in its checkpoints. Ranks that Slurm starts (srun --mpi) find each other
through a server in slurmstepd, which a restore does not bring back.
"""

from __future__ import annotations

import os

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.files import Document
    from oci_criu_shim.host import inet
    from oci_criu_shim.slurm.tasks import Task

# For PRRTE of Open MPI 5, and for Open MPI 4: "any but slurm".
OTHERS = {f"{project}_MCA_{part}": "^slurm" for project in ("PRTE", "OMPI") for part in ("plm", "ras")}
# For PMIx of Open MPI: mpirun listens on the loopback interface, which each node has, not on an address of this one.
INTERFACE = "PMIX_MCA_ptl_base_if_"
# For UCX, which is below MPICH in Debian, and may be below Open MPI: the same. Ranks reach each other by shared memory.
DEVICES = {"UCX_NET_DEVICES": "lo"}
# For MPICH's Hydra, and Intel's. Slurm 24.11 sets them to "slurm".
HYDRA = {f"{prefix}HYDRA_BOOTSTRAP": "fork" for prefix in ("", "I_MPI_")}
# How many ranks Open MPI's mpirun without -n starts.
SLOTS = ("PRTE_MCA_prte_set_default_slots", "OMPI_MCA_orte_set_default_slots")
LAUNCHERS = ("mpirun", "mpiexec", "prte", "orte", "hydra_pmi_proxy")  # how the names of their processes begin
PMI_SOCKET = "PMI_FD"  # the variable that has the descriptor's number
WITHOUT = "srun --mpi=none gives none"
HINT = "start the ranks by mpirun in the container of one task, or give --checkpoint=none"


def inside(config: Document) -> Document:
    """Return config.json with variables by which mpirun and mpiexec start ranks where they are.

    It is returned as it stands for a step of several nodes. What the user has set stays.
    """
    entries: list[str] = config.get("process", {}).get("env", [])
    given = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    if given.get("SLURM_NNODES") != "1":
        return config
    wanted = OTHERS | DEVICES | {name: value for name, value in HYDRA.items() if given.get(name) in (None, "slurm")}
    if not any(name.startswith(INTERFACE) for name in given):  # it takes one of them only
        wanted[f"{INTERFACE}include"] = "lo"
    if (tasks := given.get("SLURM_NTASKS", "1")) != "1":
        wanted |= dict.fromkeys(SLOTS, tasks)
    added = {name: value for name, value in wanted.items() if name in HYDRA or name not in given}
    env = [entry for entry in entries if entry.partition("=")[0] not in added]
    env += [f"{name}={value}" for name, value in added.items()]
    return {**config, "process": {**config["process"], "env": env}}


def is_for_daemons(name: str, found: inet.Socket, environment: Mapping[str, str]) -> bool:
    """Return whether a process of that `name` listens only for daemons on other nodes, of which a job of one has none.

    Open MPI 6's mpirun does, on an address of the node's.
    """
    alone = environment.get("SLURM_NNODES") == "1"
    return alone and name.startswith(LAUNCHERS) and found.kind == "tcp" and found.is_fixed


def leave_pmi(environment: dict[str, str]) -> str:
    """Have a bare task that is alone in its step do without Slurm's PMI (MpiDefault=pmi2): so it is rank 0 of 1, too.

    The socket to slurmstepd would keep it from being dumped. Return a line that says so for a step of several tasks,
    which have it still; an empty string if there is none.
    """
    number = environment.get(PMI_SOCKET, "")
    if not number.isdecimal():
        return ""
    if environment.get("PMI_SIZE") != "1":
        return f"its tasks can't be checkpointed: each has a socket to Slurm for MPI ({PMI_SOCKET}; {WITHOUT})"
    os.close(int(number))
    for name in [name for name in environment if name.startswith("PMI_")]:
        del environment[name]
    return ""


def require_none_of_slurms(task: Task) -> None:
    """Raise ShimError if the step asked for an --mpi of Slurm's that is not the site's default, which all steps have.

    srun tells nobody but slurmstepd and the task of it.
    """
    if task.is_batch or task.mpi in ("", "none"):
        return
    from oci_criu_shim.slurm import controller

    try:
        default = controller.configuration().get("MpiDefault")
    except ShimError:
        return  # if it joins that MPI, it can't be checkpointed
    if task.mpi != default:
        raise ShimError(f"--mpi={task.mpi} can't be checkpointed: its ranks find each other through slurmstepd", HINT)
