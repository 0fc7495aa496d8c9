"""MPI: ranks that a launcher starts in one container survive a preemption, and Slurm's own are refused."""

from __future__ import annotations

import json
import shutil

import pytest

from tests import NAME
from tests.harness import jobs
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.bundle import MPI, make_bundle, quiet
from tests.harness.cluster.suite import SUITE
from tests.harness.jobs import Job, Work, quoting
from tests.node.configured import as_oneself
from tests.node.support import Spec
from tests.slurm.test_ladder import share_network

RANKS, ROUNDS = 3, 40
SPOOL = "/var/spool/slurmd"  # has what Slurm's PMIx shares with the ranks
JOINED = "(python3) has joined the MPI of its step: it is connected to slurmstepd"
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
    """The launcher, its ranks, the memory that they share, and their connections go on on another node.

    Those in the node's network are among the programs of test_programs.py.
    """
    program = f"python3 /shared/ring.py /shared/{name}.ledger {ROUNDS} 0.3"
    script = f"exec {LAUNCHERS[name]} -n {RANKS} {program}"
    job = jobs.submit(shim_cluster, name, script, Work(ticks=ROUNDS), f"--container={mpi_bundle}", *jobs.OPTIONS)
    with quoting(job):
        job.wait_running()
        job.wait_ticks(4)
        job.preempt()
        assert job.wait_end() == "COMPLETED"
        lines, total = expected()
        assert job.ledger() == lines
        assert f"total {total} of {RANKS}\n" in job.output()
        first, second = job.nodes
        assert first != second
        assert any(line.startswith("restored ") and line.endswith(f" on {second}") for line in job.events())


def test_as_many_ranks_as_tasks(shim_cluster: Cluster, mpi_bundle: str) -> None:
    """If mpirun is not told how many, and the node has fewer cores."""
    script = "exec mpirun.openmpi --bind-to none python3 /shared/ring.py /shared/many.ledger 2 0"
    options = (f"--container={mpi_bundle}", "-n3", "--overcommit", *jobs.OPTIONS)
    job = jobs.submit(shim_cluster, "many", script, Work(ticks=2), *options)
    with quoting(job):
        assert job.wait_end() == "COMPLETED"
        assert " of 3\n" in job.output()


@pytest.mark.parametrize("kind", SUITE.mpi)
def test_ranks_of_slurms(shim_cluster: Cluster, mpi_bundle: str, kind: str) -> None:
    """They are refused before they start; without checkpoints it is between Slurm and the container."""
    argv = ["srun", "-n2", "--overcommit", f"--mpi={kind}", f"--container={mpi_bundle}", *jobs.OPTIONS[:2]]
    done = shim_cluster.exec("ctl", [*argv, "echo", "started"], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    line = f"oci-criu-shim: error: --mpi={kind} can't be checkpointed: its ranks find each other through slurmstepd"
    assert done.stderr.count(f"{line} (hint: start the ranks by mpirun in the container of one task, or ") == 2
    done = shim_cluster.exec("ctl", [*argv, "--checkpoint=none", "echo", "started"], check=False)
    assert (done.returncode, done.stdout) == (0, "started\n" * 2), done.stderr


def joining(spec: Spec) -> Spec:
    """It reaches the PMIx of its step: the node's network, and its directory."""
    share_network(spec)
    spec["mounts"].append({"destination": SPOOL, "type": "none", "source": SPOOL, "options": ["rbind", "rw"]})
    spec["process"]["env"] += ["OMPI_MCA_btl=tcp,self", "OMPI_MCA_pml=ob1"]  # the containers share no memory
    return spec


@pytest.mark.skipif("pmix" not in SUITE.mpi, reason="this Slurm has no PMIx")
def test_ranks_by_the_sites_default() -> None:
    """All steps have a server of PMIx then: who has not joined it is checkpointed, and who has is told soon."""
    with Cluster(f"{NAME}-mpi", nodes=1, slurm_conf=("MpiDefault=pmix",)) as cluster:
        bundle = make_bundle(cluster.home / "alice" / "mpi", 1000, 1000, quiet, MPI)
        shared = {"destination": "/shared", "type": "none", "source": "/shared", "options": ["rbind", "rw"]}
        path = bundle / "config.json"
        spec = json.loads(path.read_text())
        spec["mounts"].append(shared)
        path.write_text(json.dumps(joining(as_oneself(spec))))
        shutil.copy(jobs.PROGRAMS / "ring.py", cluster.shared)
        step = "exec srun -n2 --overcommit --container=/home/alice/mpi"
        ring = "python3 /shared/ring.py /shared/default.ledger 100 0.2"
        options = (*jobs.OPTIONS, "--exclusive")
        job = jobs.submit(cluster, "default", f"{step} sh -c 'sleep 8; exec {ring}'", Work(ticks=100), *options)
        with quoting(job):
            wait_for(lambda: ask(cluster, job).count("it runs on") == 2, 30, "two checkpoints")
            job.wait_ticks(1)
            assert ask(cluster, job).count(JOINED) == 2
            cluster.exec("ctl", ["scancel", job.number])
        job = jobs.submit(cluster, "default", f"{step} {ring}", Work(ticks=100), *options)
        with quoting(job):
            wait_for(lambda: JOINED in job.output(), 30, "it to be told")
            assert "can't be checkpointed: process " in job.output()
            cluster.exec("ctl", ["scancel", job.number])


def test_tasks_without_a_container_by_the_sites_default() -> None:
    """With PMI2, each has a socket to slurmstepd: one that is alone does without, several are told."""
    with Cluster(f"{NAME}-pmi", nodes=1, slurm_conf=("MpiDefault=pmi2",)) as cluster:
        jobs.prepare(cluster)
        job = jobs.submit(cluster, "alone", "srun {command}", Work(ticks=20), *jobs.OPTIONS)
        with quoting(job):
            job.wait_running()
            job.wait_ticks(2)
            assert "it runs on" in ask(cluster, job)
            assert job.wait_end() == "COMPLETED"
        script = "srun -n2 --overcommit sh -c 'echo $PMI_SIZE; sleep 15'"
        job = jobs.submit(cluster, "both", script, Work(), *jobs.OPTIONS)
        with quoting(job):
            wait_for(lambda: "2\n2\n" in job.output(), 30, "both tasks")
            assert "step 0 task 0: its tasks can't be checkpointed: each has a socket to Slurm for MPI" in job.output()
            said = ") has a socket to Slurm for MPI (PMI_FD) (hint: srun --mpi=none gives none)"
            assert ask(cluster, job).count(said) == 2
            cluster.exec("ctl", ["scancel", job.number])


def ask(cluster: Cluster, job: Job) -> str:
    """What is said if it is to be checkpointed now."""
    return cluster.exec("ctl", ["oci-criu-shim", "job", "checkpoint", job.number], check=False).stdout
