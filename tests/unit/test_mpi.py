"""What is done for MPI in a container: its launchers stay inside, and ranks of Slurm's are refused in time."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import pytest

from oci_criu_shim.container import mpi
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump.faults import sockets
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import inet
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.tasks import Task

URI = "pmix-server.416;tcp4://127.0.0.1:56755"


def changed(*entries: str) -> dict[str, str]:
    """The variables that a container has besides the given ones, or instead of them."""
    config = mpi.inside({"process": {"env": list(entries), "cwd": "/"}, "root": {}})
    assert (config["process"]["cwd"], config["root"]) == ("/", {})
    names = [entry.partition("=")[0] for entry in config["process"]["env"]]
    assert len(names) == len(set(names))
    return dict(entry.split("=", 1) for entry in config["process"]["env"] if entry not in entries and "=" in entry)


def test_launchers_stay_inside() -> None:
    both = {"PRTE_MCA_plm": "^slurm", "PRTE_MCA_ras": "^slurm", "OMPI_MCA_plm": "^slurm", "OMPI_MCA_ras": "^slurm"}
    both |= {"PMIX_MCA_ptl_base_if_include": "lo", "UCX_NET_DEVICES": "lo"}
    hydra = {"HYDRA_BOOTSTRAP": "fork", "I_MPI_HYDRA_BOOTSTRAP": "fork"}
    assert changed("SLURM_NNODES=1", "EMPTY", "HYDRA_BOOTSTRAP=slurm", "SLURM_NTASKS=1") == both | hydra


def test_what_the_user_has_set_stays() -> None:
    given = (
        "HYDRA_BOOTSTRAP=ssh",
        "PRTE_MCA_plm=slurm",
        "PRTE_MCA_ras=",
        "PMIX_MCA_ptl_base_if_exclude=ib0",
        "UCX_NET_DEVICES=all",
    )
    found = changed("SLURM_NNODES=1", *given)
    assert set(found) == {"OMPI_MCA_plm", "OMPI_MCA_ras", "I_MPI_HYDRA_BOOTSTRAP"}


def test_the_jobs_tasks_are_its_slots() -> None:
    slots, older = mpi.SLOTS
    found = changed("SLURM_NNODES=1", "SLURM_NTASKS=3")
    assert (found[slots], found[older]) == ("3", "3")
    assert slots not in changed("SLURM_NNODES=1", "SLURM_NTASKS=3", f"{slots}=2")


@pytest.mark.parametrize("entries", [("SLURM_NNODES=2", "HYDRA_BOOTSTRAP=slurm"), ("A=b",), ()])
def test_nothing_is_changed_elsewhere(entries: tuple[str, ...]) -> None:
    """If a job has several nodes, srun starts what is on the others."""
    config = {"process": {"env": list(entries)}}
    assert mpi.inside(config) is config


@pytest.mark.parametrize(
    ("kind", "default", "step", "refused"),
    [
        ("pmix", "(null)", "0", True),
        ("pmi2", "pmix", "0", True),
        ("pmix", "pmix", "0", False),
        ("pmix", None, "0", False),
        ("pmix", "(null)", None, False),
        ("none", "pmix", "0", False),
        (None, "pmix", "0", False),
    ],
)
def test_ranks_of_slurms(
    monkeypatch: pytest.MonkeyPatch, kind: str | None, default: str | None, step: str | None, refused: bool
) -> None:
    """The site's default is every step's; a batch script has what it inherited from where it was submitted."""

    def configuration() -> dict[str, str]:
        if default is None:
            raise ShimError("Slurm does not answer")
        return {"MpiDefault": default}

    monkeypatch.setattr(controller, "configuration", configuration)
    given = {"SLURM_JOB_ID": "7", "SLURM_MPI_TYPE": kind, "SLURM_STEP_ID": step}
    task = Task({name: value for name, value in given.items() if value})
    with pytest.raises(ShimError, match=f"--mpi={kind} can't be checkpointed") if refused else nullcontext():
        mpi.require_none_of_slurms(task)


class Program:
    """A process of this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"process 5 ({self.name})"


class Seen:
    """A container in its node's network, whose `program` has connections to these ports."""

    closes = forgets_ended = True

    def __init__(self, environment: list[str], *ports: int, program: str = "ring") -> None:
        self.bundle = Bundle("/b", {"process": {"env": environment}})
        self.sockets = [(Program(program), self._connection(port)) for port in ports]

    def _connection(self, port: int) -> Any:
        found = inet.Socket.__new__(inet.Socket)
        found.kind, found.state, found.layer = "tcp", 1, ""
        found.local, found.remote = (bytes((127, 0, 0, 1)), 40000), (bytes((127, 0, 0, 1)), port)
        return found


@pytest.mark.parametrize(
    ("environment", "ports", "count"),
    [
        ([f"PMIX_SERVER_URI4={URI}"], (56755,), 1),
        ([f"PMIX_SERVER_URI4={URI}", f"PMIX_SERVER_URI21={URI}"], (80, 56755), 1),
        (["PMIX_SERVER_URI4=x;tcp6://[::1]:80"], (80,), 1),
        ([f"PMIX_SERVER_URI4={URI}"], (80,), 0),
        (["PMIX_SERVER_URI4=nonsense"], (80,), 0),
        ([], (56755,), 0),
    ],
)
def test_who_has_joined(environment: list[str], ports: tuple[int, ...], count: int) -> None:
    """Steps have such a server by the site's default, whether they use it or not."""
    found = list(sockets.launched(Seen(environment, *ports)))  # type: ignore[arg-type]
    assert len(found) == count
    assert all("process 5 (ring) has joined the MPI of its step" in str(error) for error in found)


@pytest.mark.parametrize(("name", "refused"), [("prterun", True), ("mpirun.openmpi", True), ("python3", False)])
def test_launchers_in_the_nodes_network(name: str, refused: bool) -> None:
    """Their ranks are not told that a connection was closed; they end."""
    seen = Seen([], 80, program=name)
    said = [str(error) for error in sockets.launching(seen)]  # type: ignore[arg-type]
    assert [f"process 5 ({name}) has started ranks of MPI" in line for line in said] == [True] * refused
    seen.closes = False
    assert not list(sockets.launching(seen))  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "left"), [("1", {"PATH": "/bin"}), ("2", None)])
def test_pmi_is_left_by_one_that_is_alone(size: str, left: dict[str, str] | None) -> None:
    reader, writer = os.pipe()
    given = {"PATH": "/bin", "PMI_FD": str(reader), "PMI_SIZE": size, "PMI_RANK": "0", "PMI_JOBID": "7.0"}
    environment = dict(given)
    said = mpi.leave_pmi(environment)
    assert environment == (given if left is None else left)
    assert bool(said) == (left is None)
    if left is None:
        os.close(reader)
    else:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(reader)
    os.close(writer)
    assert mpi.leave_pmi({"PATH": "/bin"}) == ""
