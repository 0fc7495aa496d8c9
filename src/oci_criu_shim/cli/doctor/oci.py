"""Check that oci.conf has this runtime run the containers."""

from __future__ import annotations

import os

from oci_criu_shim.cli.doctor import installation, lines, node, roots
from oci_criu_shim.cli.doctor.verdicts import Caution
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.doctor.slurmconf import SlurmConf

PROGRAM = "oci-criu-shim"
ROOT = f"{RUN_DIRECTORY}/%j"
COMMANDS = ("RunTimeRun", "RunTimeCreate", "RunTimeStart", "RunTimeQuery", "RunTimeKill", "RunTimeDelete")
SPOOL = "MountSpoolDir"
# The command lines that slurmstepd runs as root at a step's end, and what they begin with in files of etc/oci.conf.d.
BY_ROOT = ("RunTimeQuery", "RunTimeKill", "RunTimeDelete")
GUARD = f"[ ! -O {RUN_DIRECTORY} ] || [ %U = 0 ] || exit 1;"
# If a query fails, Slurm puts an error into the job's output; an empty answer means that there is no container.
GUARDS = {"RunTimeQuery": (GUARD.replace("exit 1;", "{ echo {}; exit; };"), GUARD)}
CHOOSER = "/slurm-oci/run"  # of multi-runtime.conf
INSTALLED = "/etc/oci-criu-shim/oci.conf.d"
BACKEND = "--backend"


class Oci:
    """Slurm's oci.conf (oci.conf(5))."""

    def __init__(self, conf: SlurmConf) -> None:
        self.conf = conf

    def check(self) -> str:
        """Check its command lines, and the programs that they name."""
        path = os.path.join(self.conf.directory(), "oci.conf")
        found = commands(path)
        spool = found.pop(SPOOL, None)
        if "RunTimeRun" not in found and "RunTimeCreate" not in found:
            raise ShimError(f"{path} sets neither RunTimeRun nor RunTimeCreate", copy(path))
        roots.require(path, "root runs what it names")
        require_guard(path, found)
        run = found.get("RunTimeRun", [])
        chooser = next((word for word in run if word.endswith(CHOOSER)), None)
        if chooser:
            require_program(path, "RunTimeRun", chooser)
            said = f"{path}: each job chooses its runtime, by {chooser}"
        else:
            said = f"{path}: {', '.join(found)}{require_ours(path, found)}"
        if run and run[0] != "exec":  # slurmstepd sends its signals to the shell
            raise Caution(
                f"{path}: RunTimeRun has no exec: signals reach a shell only", f"begin it with: exec {run[0]}"
            )
        if chooser and "%m" in run:
            wrong = f"{path}: RunTimeRun has %m, which is the step's directory, not the task's, since Slurm 25.05"
            raise Caution(wrong, "put there: $(dirname %e)")
        if not chooser and not spool:
            wrong = f"{path} has no {SPOOL}, whose default has the job's number since Slurm 25.05: no other job can"
            raise Caution(f"{wrong} begin with a job's checkpoint", f'add the line: {SPOOL}="/var/run/slurm/"')
        try:
            roots.require_readable(path, "their doctor and scrun can't read it")
        except ShimError as error:
            raise Caution(str(error), error.hint) from None
        return said


def copy(path: str) -> str:
    """Return how to have an oci.conf."""
    return f"cp {INSTALLED}/{PROGRAM}.conf {path}"


def require_ours(path: str, found: dict[str, list[str]]) -> str:
    """Raise ShimError if a command line is missing, or is not one of ours that works; return their other backends."""
    needed = (*(["RunTimeStart"] if "RunTimeRun" not in found else []), *BY_ROOT)
    if missing := [key for key in needed if key not in found]:
        said = f"{path} lacks {', '.join(missing)}: containers outlive their steps, or never start"
        raise ShimError(said, f"take these lines from {INSTALLED}/{PROGRAM}.conf")
    for key, words in found.items():
        runtime(path, key, words)
    names = dict.fromkeys(name for words in found.values() for name in backends(words))
    return "".join(f"; {version(path, name)}" for name in names)


def backends(words: list[str]) -> list[str]:
    """Return the backends that a command line names, as `--backend=NAME` or `--backend NAME`."""
    joined = " ".join(words).replace(f"{BACKEND} ", f"{BACKEND}=").split()
    return [word.partition("=")[2] for word in joined if word.startswith(f"{BACKEND}=")]


def version(path: str, backend: str) -> str:
    """Return what node.program_version() says of a backend that oci.conf names."""
    try:
        return node.program_version(backend)
    except ShimError as error:
        raise type(error)(f"{path} has {BACKEND}={backend}: {error}", f"{error.hint}: see {INSTALLED}") from None


def require_guard(path: str, found: dict[str, list[str]]) -> None:
    """Raise ShimError if root would trust what is in a job's directory, which is the user's."""
    without = {key: found[key] for key in BY_ROOT if named(found.get(key, [])) and not is_guarded(key, found[key])}
    if without:
        keys = ", ".join(without)
        raise ShimError(
            f"{path}: slurmstepd runs {keys} as root, too, in a directory of the job's user, who may become root by it",
            "\n".join(
                ["replace on all nodes:", *(setting(key, [guards(key)[0], *words]) for key, words in without.items())]
            ),
        )


def guards(key: str) -> tuple[str, ...]:
    """Return what a command that slurmstepd runs as root, too, may begin with; the best comes first."""
    return GUARDS.get(key, (GUARD,))


def is_guarded(key: str, words: list[str]) -> bool:
    """Return whether a command begins with one of its guards."""
    return any(words[: len(guard)] == guard for guard in map(str.split, guards(key)))


def setting(key: str, words: list[str]) -> str:
    """Return the line of oci.conf."""
    command = " ".join(words)
    quote = "'" if '"' in command else '"'
    return f"{key}={quote}{command}{quote}"


def named(words: list[str]) -> str | None:
    """Return our program as a command line names it; None if it doesn't."""
    return next((word for word in words if os.path.basename(word) == PROGRAM and word != RUN_DIRECTORY), None)


def runtime(path: str, key: str, words: list[str]) -> None:
    """Raise ShimError if a command line of oci.conf is not one of ours."""
    program = named(words)
    if program is None:
        raise ShimError(f"{path}: {key} is not by {PROGRAM}: {' '.join(words)}", copy(path))
    require_program(path, key, program)
    if ROOT not in " ".join(words):
        raise ShimError(f"{path}: {key} does not name {ROOT}, where the plugin looks for containers", copy(path))


def require_program(path: str, key: str, program: str) -> None:
    """Raise ShimError if a program that a line of oci.conf names is not there."""
    if program.startswith("/") and not os.access(program, os.X_OK):
        own = f"{installation.PREFIX}/bin/{PROGRAM}"
        hint = f"correct the path: it is {own}" if os.access(own, os.X_OK) else installation.INSTALL
        raise ShimError(f"{path}: {key}: {program} is not there", hint)
    if program.startswith("/"):
        roots.require(program, "everybody's jobs run it")


def commands(path: str) -> dict[str, list[str]]:
    """Return {setting: words} of its command lines, and of SPOOL."""
    found = {}
    for line in lines.read(path, copy(path)):
        key, _, value = " ".join(line.words).partition("=")
        for name in (*COMMANDS, SPOOL):
            if key.strip().lower() == name.lower():
                found[name] = value.split()
    return found
