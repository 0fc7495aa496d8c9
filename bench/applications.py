"""The real programs that are measured, with inputs of ours; tests/programs runs them with smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.cluster.cluster import quiet
from tests.harness.cluster.rootfs import NODE, ensure, with_packages
from tests.programs.table import Program

BLAS = "libopenblas0-pthread"
FACTORIZATIONS = ("0", "1", "2")
"""HPL is repeated with each, so that it is not over before it is preempted."""


@dataclass(frozen=True)
class Application:
    """A program at work, and how to tell that it is."""

    program: Program
    least: int
    """MiB of memory that it has as soon as it computes, or a little less."""
    begins: tuple[str, str] | None = None
    """A file of its, and what that says once it is at what is measured, if it does something else before."""


def hpl(size: int, times: int = 1) -> Application:
    """Return HPL with a matrix of so many rows, which is factorized three times as often as `times`."""
    words = ("1", str(size), *FACTORIZATIONS * times)
    program = Program("HPL", "hpcc", ("hpcc", "openmpi-bin", BLAS), words)
    return Application(program, int(0.98 * 8 * size**2 / (1 << 20)), ("hpccoutf.txt", "Begin of HPL"))


APPLICATIONS = {
    "hpl": hpl(6400),
    "gromacs": Application(Program("GROMACS", "gromacs", ("gromacs",), ("1", "2", "14", "100000")), least=260),
    "lammps": Application(Program("LAMMPS", "lammps", ("lammps",), ("60", "100000", "100000")), least=320),
    "vina": Application(Program("AutoDock Vina", "vina", ("autodock-vina",), ("40", "10000")), least=256),
}
PACKAGES = tuple(sorted({name for application in APPLICATIONS.values() for name in application.program.packages}))


def root(packages: Sequence[str] = PACKAGES) -> Path:
    """Return the nodes' root file system with these packages, which their containers have as well, without a copy."""
    return ensure(with_packages(NODE, packages), quiet)
