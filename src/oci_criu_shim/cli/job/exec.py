"""`job exec`: run one more program in a container of a running job.

It goes to the job's node as a step of the job, beside the job's own steps, and there it is the verb `exec`.
"""

from __future__ import annotations

import json
import os
import sys

from oci_criu_shim.cli import commands
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.jobs import is_name, job_number, run_directory
from oci_criu_shim.container import jobs
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller, srun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    from oci_criu_shim.container.jobs import Found
    from oci_criu_shim.slurm.commands import Part

    class Row(TypedDict):
        """A container of the job, as a node tells of it."""

        node: str
        step: str
        task: int


NODE = os.uname().nodename
SHELL = "/bin/sh"
SHOWN = 8  # containers in a message


def execute(call: Invocation) -> int:
    """Run one more program in a running job's container; a shell by default."""
    word, *command = call.operands
    command = command[1:] if command[:1] == ["--"] else command
    if call.flag("here"):
        return _here(call, job_number(word), command)
    part = only_part(word, controller.running(word if is_name(word) else str(job_number(word))))
    node = call.value("node") or (_node(call, part) if part["nodes"] > 1 else "")
    tty = call.flag("tty") or (not command and os.isatty(0) and os.isatty(1))
    words = [*_ourselves(call), *["--tty"] * tty, str(part["job"]), "--", *(command or [SHELL])]
    srun.become_step(part, node, words, tty)


def only_part(word: str, parts: list[Part]) -> Part:
    """Return the one job that `word` names; raise ShimError if that is an array or a heterogeneous job."""
    if parts[1:]:
        sign = "_" if parts[0]["group"] is None else "+"
        names = [f"{part['array'] or part['leader']}{sign}{part['task'] or part['group'] or 0}" for part in parts]
        raise ShimError(f"{word} is several jobs", f"name one of them: {', '.join(names[:SHOWN])}")
    return parts[0]


def _ourselves(call: Invocation) -> list[str]:
    """Return the words by which a node's step runs this command for the containers that are asked for."""
    return [os.path.abspath(sys.argv[0]), "job", "exec", "--here", *call.words("step", "task")]


def _node(call: Invocation, part: Part) -> str:
    """Return the node on which the one container is that is asked for, of a job of several nodes."""
    rows: list[Row] = []

    def hear(line: str) -> None:
        try:
            rows.append(json.loads(line))
        except ValueError:
            print(line, file=sys.stderr, flush=True)  # from a task prolog

    srun.run_on_nodes(part, [*_ourselves(call), "--lines", str(part["job"])], hear)
    return _only(part["job"], sorted(rows, key=lambda row: (row["step"].zfill(10), row["task"])))["node"]


def _here(call: Invocation, job: int, command: list[str]) -> int:
    root = run_directory(job)
    found = [one for one in jobs.running(root) if _is_asked_for(call, one)]
    rows: list[Row] = [{"node": NODE, "step": step, "task": task} for _, step, task in found]
    if call.flag("lines"):
        for row in rows:
            print(json.dumps(row), flush=True)
        return 0
    container = found[rows.index(_only(job, rows))][0]
    given: dict[str, list[str]] = {}
    if call.flag("tty"):
        given = {"tty": [], "env": [f"TERM={os.environ.get('TERM', 'dumb')}"]}
    operands = [container.name, *(command or [SHELL])]
    return commands.pass_on(Invocation("exec", {**call.globals, "root": root}, given, operands))


def _is_asked_for(call: Invocation, found: Found) -> bool:
    _, step, task = found
    return call.value("step") in (None, step) and call.value("task") in (None, str(task))


def _only(job: int, rows: list[Row]) -> Row:
    """Return the only row; raise ShimError if there are others, or none."""
    if not rows:
        hint = f"`srun --jobid={job} --overlap --pty {SHELL}` runs a shell beside what the job runs"
        raise ShimError(f"no such container of job {job} runs", hint)
    if rows[1:]:
        names = [f"step {row['step']} task {row['task']} on {row['node']}" for row in rows]
        shown = ", ".join([*names[:SHOWN], *["…"] * (len(names) > SHOWN)])
        example = f"--step={rows[0]['step']} --task={rows[0]['task']}"
        raise ShimError(f"job {job} has {len(rows)} containers: {shown}", f"`oci-criu-shim job exec {example} {job}`")
    return rows[0]
