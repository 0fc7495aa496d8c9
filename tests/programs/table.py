"""The programs, and what they need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """What one line of the page is about."""

    title: str
    script: str
    """In scripts/, without .sh. It makes `begun` when it is at work, and `result`, in an empty directory of its own."""
    packages: tuple[str, ...] = ()
    """Of Debian, besides what the nodes have; the first one's version is in the page."""
    words: tuple[str, ...] = ()
    is_outside: bool = False
    """Whether it talks to another node, so that its container shares the node's network."""
    is_tested: bool = False
    """Whether `make test` has it, too."""

    @property
    def name(self) -> str:
        return "-".join((self.script, *self.words))


PROGRAMS = (
    Program("GROMACS, two ranks of thread-MPI", "gromacs", ("gromacs",), ("2", "1")),
    Program("GROMACS, two threads of OpenMP", "gromacs", ("gromacs",), ("1", "2")),
    Program("LAMMPS", "lammps", ("lammps",), is_tested=True),
    Program("Open MPI, a ring of three ranks", "ring", ("openmpi-bin",), ("openmpi",), is_tested=True),
    Program("MPICH, a ring of three ranks", "ring", ("mpich",), ("mpich",), is_tested=True),
    Program("HPC Challenge, three ranks of Open MPI", "hpcc", ("hpcc", "openmpi-bin")),
    Program("AutoDock Vina", "vina", ("autodock-vina",)),
    Program("NumPy over OpenBLAS", "numpy", ("python3-numpy", "libopenblas0-pthread")),
    Program("Python's multiprocessing, with SQLite being written", "sqlite", ("python3",), is_tested=True),
    Program("PyTorch, with two workers of a DataLoader", "pytorch", ("python3-torch",)),
    Program("OpenJDK", "java", ("openjdk-21-jdk-headless",)),
    Program("Node.js", "node", ("nodejs",)),
    Program("Go", "go", ("golang-go",)),
    Program("R, mclapply", "r", ("r-base-core",)),
    Program("PostgreSQL, with pgbench", "postgresql", ("postgresql", "postgresql-client"), is_tested=True),
    Program("Redis, with two clients over TCP", "redis", ("redis-server", "redis-tools"), is_tested=True),
    Program("HTTP, client and server in one job", "keepalive", ("python3",), is_tested=True),
    Program("HTTP, client of another node", "http", ("python3",), ("SERVER", "18080"), is_outside=True, is_tested=True),
    Program("make -j, with GCC", "make", ("make", "gcc", "libc6-dev")),
    Program("ffmpeg", "ffmpeg", ("ffmpeg",)),
    Program("tmux", "tmux", ("tmux", "ncurses-bin")),
    Program("tail -f in a script", "tail"),
    Program("OpenMP, bound to processors", "openmp", ("gcc", "libc6-dev")),
    Program("A GiB of memory in huge pages", "huge", ("gcc", "libc6-dev")),
    Program("SysV and POSIX shared memory", "shared", ("gcc", "libc6-dev")),
    Program("A shell's background jobs and pipelines", "pipeline", is_tested=True),
)
