"""The Debian release that root file systems are made of, as the environment variable SUITE names it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .errors import ClusterError

VARIABLE = "SUITE"
DEFAULT = "trixie"


@dataclass(frozen=True)
class Suite:
    """A release of Debian, by what the recipes must know of it, and what tests see of its programs."""

    name: str
    earlier: str
    """The suite before it; empty if there is no recipe for that."""
    python: str
    """The version of its python3."""
    from_sid: tuple[str, ...]
    """Packages of the nodes that come from sid."""
    first_free: int
    """The first descriptor that a Python program with ctypes gets: libffi 3.5 keeps its own file open."""
    crun_keeps_processors: bool
    """Whether a container of crun's begins with the processors that crun itself is bound to (taskset), not with all."""
    requeues_twice: bool
    """Whether slurmctld, if it has requeued a job at the end of its grace time, does so once more when it has ended."""
    names_groups_by_sluid: bool
    """Whether Slurm names a job's group of version 2 by its SLUID, unless by CgroupJobIdPaths=yes."""
    has_expedited_requeue: bool
    """Whether Slurm has `sbatch --requeue=expedite` and `srun --async`."""
    tells_submit_line: bool
    """Whether slurmctld tells of a job how it was submitted, and so which directory it was given."""
    docker_network: str
    """The network of containers that Docker can restore: since 28 it looks for a namespace before there is a process
    (`bind-mount /proc/0/ns/net`, containerd/containerd#12141), with runc as well."""
    docker_fails_without_root: bool
    """Whether dockerd without root, in the node's network, fails to enter a network namespace (moby/moby#51363)."""
    mpi: tuple[str, ...]
    """The kinds of MPI (`srun --mpi`) by which its Slurm starts ranks: Debian's 26.05 was built without PMIx."""
    crun_not_found: int
    """The exit status of crun's `exec` of a program that is not there."""
    not_found: dict[str, int]
    """The same of a job's program, by other runtimes: Charliecloud's is 49 since 0.45."""

    @property
    def release(self) -> str:
        """Debian's name of the release."""
        return self.name.partition("-")[0]


CRIU = ("criu", "libcriu2", "python3-pycriu")
SUITES = {
    suite.name: suite
    for suite in (
        # CRIU 4.1.1 of trixie cannot dump inet sockets on Linux >= 6.16 (SO_PASSCRED); 4.2.1 of sid can.
        Suite(
            name="trixie",
            earlier="",
            python="3.13",
            from_sid=(*CRIU, "apptainer"),
            first_free=3,
            crun_keeps_processors=True,
            requeues_twice=True,
            names_groups_by_sluid=False,
            has_expedited_requeue=False,
            tells_submit_line=False,
            docker_network="none",
            docker_fails_without_root=False,
            mpi=("pmix", "pmi2"),
            crun_not_found=255,
            not_found={"charliecloud": 1, "apptainer": 255},
        ),
        Suite(
            name="forky",
            earlier="trixie",
            python="3.14",
            from_sid=("apptainer",),
            first_free=4,
            crun_keeps_processors=False,
            requeues_twice=False,
            names_groups_by_sluid=True,
            has_expedited_requeue=True,
            tells_submit_line=True,
            docker_network="host",
            docker_fails_without_root=True,
            mpi=("pmi2",),
            crun_not_found=1,
            not_found={"charliecloud": 49, "apptainer": 255},
        ),
    )
}
SUITES["trixie-criu-4.1"] = replace(SUITES["trixie"], name="trixie-criu-4.1", from_sid=("apptainer",))
"""Trixie with its own CRIU, for Linux before 6.16."""


def chosen(environment: Mapping[str, str]) -> Suite:
    """Return the suite that an environment names. Raise ClusterError if there is no recipe for it."""
    name = environment.get(VARIABLE) or DEFAULT
    if name not in SUITES:
        raise ClusterError(f"{VARIABLE}={name}: there is no recipe for it", f"one of {', '.join(SUITES)}")
    return SUITES[name]


SUITE = chosen(os.environ)
