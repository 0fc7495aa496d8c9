"""Run a task without a container whose job asked for checkpoints, in place of its program (spank/bare.c).

It becomes a bare task if the site allows that. If not, the program is executed as it is, and the job's output says so.
"""

from __future__ import annotations

import errno
import os
import stat

from oci_criu_shim import config, files
from oci_criu_shim.container import bare, mpi
from oci_criu_shim.container.bundle import CONFIG
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.log import Log
from oci_criu_shim.slurm import tasks
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from oci_criu_shim.config import Settings

PROGRAM = "OCI_CRIU_SHIM_PROGRAM"  # the variable that names the task's program
# Programs that make steps of a batch script's work; that make containers, in user namespaces of their own; and that
# need another user's rights.
STEPS = {"srun", "scrun"}
ENGINES = {"apptainer", "ch-run", "docker", "enroot", "podman", "singularity"}
SETUID = {"crontab", "fusermount", "fusermount3", "newgrp", "passwd", "ping", "pkexec", "su", "sudo"}
LONGEST_SCRIPT = 4 << 20  # bytes, as slurm.conf's max_script_size


def main(arguments: Sequence[str]) -> int:
    """Run the task's program with `arguments`; return the exit status."""
    environment = own_environment()
    program = environment.pop(PROGRAM, "")
    try:
        task = tasks.of(environment)
        if task is None:
            raise ShimError("this program is for Slurm's tasks alone", "run the program itself")
        path = find(program, environment, task)
        words = [path, *arguments]
        if stays_as_it_is(task, path):
            become(words, environment)
        settings = config.load()
        if not allows(settings):
            if not task.rank:
                said = f"{task.describe()} is outside of a container, which this site does not checkpoint (bare-jobs)"
                Log().event(ShimError(said, "give --container to sbatch, or to srun in the script").line())
            become(words, environment)
        return _run(task, words, environment, settings)
    except (ShimError, OSError) as error:
        Log().error(line_of(error))
        return error.status if isinstance(error, ShimError) else 1


def own_environment() -> dict[str, str]:
    """Return the environment that this process was given: Python may have changed its own (PEP 538)."""
    with open("/proc/self/environ", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        return dict(entry.partition("=")[::2] for entry in stream.read().split("\0") if "=" in entry)


def find(program: str, environment: Mapping[str, str], task: Task) -> str:
    """Return the path of the task's program, as slurmstepd finds it (exec_task() in its task.c)."""
    if program.endswith("/"):  # of `srun --bcast` to a directory
        return f"{program}slurm_bcast_{task.job}.{task.step}_{task.node}"
    if "/" in program:
        return os.path.join(os.getcwd(), program)
    places = environment.get("PATH", "").split(":")
    paths = (os.path.join(os.getcwd(), place, program) for place in places)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), program)


def stays_as_it_is(task: Task, path: str) -> bool:
    """Return whether the program is to be executed as it is, whatever the site allows."""
    if not task.asked or os.geteuid() == 0 or not os.access(path, os.X_OK):
        return True  # nobody checkpoints root's jobs; or there is nothing to execute, and Slurm's words are due
    words = script_words(path) if task.is_batch else set()
    if not STEPS & words and (engines := ENGINES & words):
        said = f"{task.describe()} is not checkpointed: its script has `{min(engines)}`, which makes containers"
        Log().event(ShimError(said, "start them by srun --container, or leave the word out").line())
    return bool((STEPS | ENGINES) & words)


def script_words(path: str) -> set[str]:
    """Return the words of a batch script that may be programs."""
    import re  # it takes long to import, and a step needs none

    with open(path, encoding="utf-8", errors="replace") as stream:
        text = re.sub(r"(?m)^\s*#.*$", "", stream.read(LONGEST_SCRIPT))
    return {word.rpartition("/")[2] for word in re.findall(r"[\w./-]+", text)}


def script_of(task: Task) -> str:
    """Return the job's batch script if that runs on this node; else an empty string."""
    from oci_criu_shim.task import script_end

    try:
        with open(script_end.path(task.job), encoding="utf-8", errors="replace") as stream:
            return stream.read(LONGEST_SCRIPT)
    except OSError:
        return ""


def without_rights(task: Task, path: str) -> set[str]:
    """Return programs that the task seems to start and that give no rights in its user namespace: setuid ones."""
    named = {os.path.basename(path)} if os.stat(path).st_mode & stat.S_ISUID else set()
    return named | (SETUID & script_words(path) if task.is_batch else set())


def allows(settings: Settings) -> bool:
    """Return whether the site lets this user's tasks without a container be checkpointed."""
    names = settings.bare_jobs
    if names in (["all"], ["none"]):
        return names == ["all"]
    import grp

    from oci_criu_shim.host import process

    groups = [name[1:] for name in names if name.startswith("@")]
    if process.user_name(os.geteuid()) in names:
        return True
    own = {os.getegid(), *os.getgroups()}
    return any(entry.gr_name in groups and entry.gr_gid in own for entry in grp.getgrall()) if groups else False


def become(words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Be the program, with what slurmstepd says if that fails."""
    from oci_criu_shim.host import process
    from oci_criu_shim.host.quick import signal

    for number in process.DEFAULTS:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(words[0], list(words), dict(environment))
    except OSError as error:
        os.write(2, f"slurmstepd: error: execve(): {words[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(error.errno or errno.EINVAL)


def _run(task: Task, words: Sequence[str], environment: dict[str, str], settings: Settings) -> int:
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.container.record import Container
    from oci_criu_shim.supervisor import lifecycle

    name = f"{task.node}.{task.job}.{task.step_name}.{task.rank}"
    root = os.path.join(RUN_DIRECTORY, str(task.job))
    made = os.path.join(root, ".bundles", f"={name}")  # no container's directory can have such a name
    script = "" if task.is_batch else script_of(task)
    places, said = bare.places(words, environment, os.getcwd(), task.job, script) if settings.bare_tmp else ([], [])
    if found := sorted(without_rights(task, words[0])):
        said.append(f"{', '.join(found)} can't get another user's rights in a task that is checkpointed (setuid)")
    if line := mpi.leave_pmi(environment):
        said.append(f"{task.describe()}: {line}")
    for line in said if not task.rank else ():
        Log().event(line)
    document = bare.document(words, environment, os.getcwd(), places, os.isatty(0), task.is_batch)
    try:
        os.makedirs(made, mode=0o700, exist_ok=True)
    except OSError:
        from oci_criu_shim.slurm import rundir

        rundir.require_no_jobs(root)
        raise
    files.write_json(os.path.join(made, CONFIG), document)
    return lifecycle.run(Plan(Container(root, name), made, {"backend": "crun"}, [], None, Log()))
