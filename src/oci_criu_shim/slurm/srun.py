"""Run programs on nodes by srun: in a running job, or in an allocation of their own."""

from __future__ import annotations

import os
import re

from oci_criu_shim import units
from oci_criu_shim.host import process
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.commands import environment, program, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from oci_criu_shim.slurm.commands import Part


def run_on_nodes(part: Part, argv: list[str], hear: Callable[[str], None]) -> int:
    """Run `argv` once on each node of a running job, beside its own steps; call `hear` with each line of output.

    Return srun's exit status as of os.waitstatus_to_exitcode.
    """
    nodes = str(part["nodes"])
    words = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    return process.wait(Srun([*_srun(part), *words, *argv]).listen(hear))


class Srun:
    """A call of srun, `argv`, whose program reads `given`. If it is `quiet`, what srun itself says counts as output."""

    def __init__(self, argv: list[str], given: str = "", quiet: bool = False) -> None:
        output, end = os.pipe()
        source, feed = os.pipe()
        try:
            os.write(feed, given.encode())  # a pipe has room for so little
            self.pid = process.spawn(argv, environment(), {0: source, 1: end, 2: end if quiet else 2})
        finally:
            for descriptor in (end, source, feed):
                os.close(descriptor)
        self.output = output

    def listen(self, hear: Callable[[str], None]) -> int:
        """Call `hear` with each line of output, until its end; return srun's pid."""
        with open(self.output, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                hear(line.rstrip("\n"))
        return self.pid


def step(part: Part, argv: list[str], given: str) -> Srun:
    """Begin a quiet step of a running job of one node, beside its own steps."""
    return Srun([*_srun(part), "--nodes=1", "--ntasks=1", *argv], given, quiet=True)


# Options of srun, and the fields of `scontrol show job` that have their values.
ALIKE = (
    *(("account", "Account"), ("qos", "QOS"), ("constraint", "Features"), ("gres", "TresPerNode")),
    *(("reservation", "Reservation"), ("time", "TimeLimit")),
)


def like(name: str, memory: int) -> list[str]:
    """Return the options of srun that ask for what the job `name`, of one node, has; or for `memory` bytes, if that is
    more."""
    line = run("scontrol", "show", "job", name, "--oneliner")
    has = dict(re.findall(r"(\S+?)=(\S*)", line))
    words = [f"--partition={has['Partition']}", f"--cpus-per-task={has['NumCPUs']}"]
    words += [f"--{option}={has[field]}" for option, field in ALIKE if has.get(field) not in (None, "", "(null)")]
    if has.get("OverSubscribe") == "NO":
        words.append("--exclusive")
    if "MEMORY" in controller.configuration().get("SelectTypeParameters", ""):
        per = int(has["NumCPUs"]) if "MinMemoryCPU" in has else 1
        asked = units.parse_size(has.get("MinMemoryCPU") or has.get("MinMemoryNode", "0")) * per
        words.append(f"--mem={max(asked, memory) >> 20}M" if asked else "--mem=0")
    return words


def allocate(words: list[str], argv: list[str]) -> Srun:
    """Begin `argv` in an allocation of its own, of one node, that `words` describe."""
    own = ["--nodes=1", "--ntasks=1", "--cpu-bind=none", "--chdir=/", "--quiet", "--kill-on-bad-exit"]
    return Srun([program("srun"), *words, *own, *argv], quiet=True)


def become_step(part: Part, node: str, argv: list[str], terminal: bool) -> NoReturn:
    """Turn this process into `argv` on a node of a running job, its only one if that is empty, with our streams."""
    words = [*_srun(part), "--nodes=1", "--ntasks=1", *([f"--nodelist={node}"] if node else [])]
    if terminal:
        words.append("--pty")
    given = {name: os.environ[name] for name in ("TERM",) if name in os.environ}
    os.execve(words[0], [*words, *argv], {**environment(), **given})


def _srun(part: Part) -> list[str]:
    """Return the words by which srun runs something in a job, beside its own steps."""
    group = [] if part["group"] is None else [f"--het-group={part['group']}"]
    return [program("srun"), f"--jobid={part['leader']}", *group, "--overlap", "--chdir=/", "--quiet"]
