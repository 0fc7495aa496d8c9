"""MPI: ranks that a launcher starts in one container survive a preemption, and Slurm's own are refused."""

from __future__ import annotations

import json

import pytest

from tests.harness import jobs
from tests.harness.cluster import Cluster
from tests.harness.cluster.bundle import MPI, make_bundle, quiet
from tests.harness.jobs import Work, quoting
from tests.node.configured import as_oneself

RANKS, ROUNDS = 3, 40
LAUNCHERS = {"openmpi": "mpirun.openmpi --oversubscribe", "mpich": "mpiexec.hydra"}


@pytest.fixture(scope="module")
def mpi_bundle(shim_cluster: Cluster, shim_bundle: str) -> str:
    """A bundle of alice's with Open MPI and MPICH, in which she is herself: mpirun would refuse to run as root."""
    bundle = make_bundle(shim_cluster.home / "alice" / "mpi", 1000, 1000, quiet, MPI)
    path, other = bundle / "config.json", shim_cluster.home / "alice" / "bundle" / "config.json"
    path.write_text(json.dumps(as_oneself(json.loads(other.read_text()))))
    assert shim_bundle
    return "/home/alice/mpi"


def expected() -> tuple[str, int]:
    """Return the lines of rank 0, and the total."""
    lines, total = [], 0
    for number in range(1, ROUNDS + 1):
        total = sum(total + number * rank for rank in range(RANKS)) % 1_000_003
        lines.append(f"{number} {number + sum(range(RANKS))} {total}\n")
    return "".join(lines), total


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ranks_in_one_container(shim_cluster: Cluster, mpi_bundle: str, name: str) -> None:
    """The launcher, its ranks, the memory that they share, and their connections go on on another node."""
    program = f"python3 /shared/ring.py /shared/{name}.ledger {ROUNDS} 0.3"
    script = f"exec {LAUNCHERS[name]} -n {RANKS} {program}"
    options = (f"--container={mpi_bundle}", *jobs.OPTIONS)
    job = jobs.submit(shim_cluster, name, script, Work(ticks=ROUNDS), *options)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(4)
        job.preempt()
        assert job.wait_end() == "COMPLETED"
        lines, total = expected()
        assert job.ledger() == lines
        assert f"total {total} of {RANKS}\n" in job.output()
        assert len({*job.nodes}) == 2
        assert any(line.startswith("restored ") for line in job.events())


@pytest.mark.parametrize("kind", ["pmix", "pmi2"])
def test_ranks_of_slurms(shim_cluster: Cluster, mpi_bundle: str, kind: str) -> None:
    """They are refused before they start; without checkpoints it is between Slurm and the container."""
    argv = ["srun", "-n2", "--overcommit", f"--mpi={kind}", f"--container={mpi_bundle}", *jobs.OPTIONS[:2]]
    done = shim_cluster.exec("ctl", [*argv, "echo", "started"], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    line = f"oci-criu-shim: error: --mpi={kind} can't be checkpointed: its ranks find each other through slurmstepd"
    assert done.stderr.count(f"{line} (hint: start the ranks by mpirun in the container of one task, or ") == 2
    done = shim_cluster.exec("ctl", [*argv, "--checkpoint=none", "echo", "started"], check=False)
    assert (done.returncode, done.stdout) == (0, "started\n" * 2), done.stderr
