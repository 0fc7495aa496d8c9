"""Check Slurm on this node: what slurm.conf, plugstack.conf and oci.conf must say."""

from __future__ import annotations

import functools
import glob
import os
import shlex

from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller, grace
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.cli.doctor.verdicts import Check

PLUGIN = "oci_criu_shim_spank.so"
PROGRAM = "oci-criu-shim"
ROOT = f"{RUN_DIRECTORY}/%j"
INSTALLED_PLUGSTACK = "/usr/share/oci-criu-shim/plugstack.conf"
COMMANDS = ("RunTimeRun", "RunTimeCreate", "RunTimeStart", "RunTimeQuery", "RunTimeKill", "RunTimeDelete")
# The command lines that slurmstepd runs as root at a step's end, and what they begin with in files of etc/oci.conf.d.
BY_ROOT = ("RunTimeQuery", "RunTimeKill", "RunTimeDelete")
GUARD = f"[ ! -O {RUN_DIRECTORY} ] || [ %U = 0 ] || exit 1;"
CHOOSER = "/slurm-oci/run"  # of multi-runtime.conf
INSTALLED_FILTER = "/etc/oci-criu-shim/cli_filter.lua"
FILTER = "oci_criu_shim_foresee"
INSTALLED_OCI = "/etc/oci-criu-shim/oci.conf.d/oci-criu-shim.conf"


ENOUGH = 100  # requeues that MaxBatchRequeue should allow a job


class Rule:
    """A setting of slurm.conf that must have one of `values` in its list; `why` says what is wrong without."""

    def __init__(self, key: str, values: tuple[str, ...], why: str, failure: type[ShimError] = ShimError) -> None:
        self.key = key
        self.values = values
        self.why = why
        self.failure = failure

    def check(self, site: Site) -> str:
        """Return the setting; raise `failure` if it is wrong."""
        value = site.configuration().get(self.key, "")
        if not set(value.lower().split(",")) & {word.lower() for word in self.values}:
            raise self.failure(f"{self.key}={value}: {self.why}", f"slurm.conf: {self.key}={self.values[0]}")
        return f"{self.key}={value}"


RULES = (
    Rule("PrologFlags", ("Contain",), "jobs have no extern step, and Slurm tells only that one of a preemption"),
    Rule("ProctrackType", ("proctrack/cgroup",), "the extern step's signals do not reach the plugin's watcher"),
    Rule("PreemptType", ("preempt/partition_prio", grace.BY_QOS), "no job is ever preempted"),
    Rule("JobRequeue", ("1",), "a preempted job is cancelled unless it asked for --requeue"),
    Rule("JobFileAppend", ("1",), "a requeued job's output begins empty, but with --open-mode=append", Caution),
)


class Site:
    """Slurm's configuration, asked for once."""

    def __init__(self) -> None:
        self.said: dict[str, str] | None = None

    def directory(self) -> str:
        """Return the directory of slurm.conf; raise Skipped if there is none."""
        found = controller.conf_directory()
        if found is None:
            raise Skipped("no slurm.conf on this machine")
        return found

    def configuration(self) -> dict[str, str]:
        """Return slurm.conf as slurmctld has it; raise Skipped if it did not answer before."""
        self.directory()
        if self.said is None:
            raise Skipped("slurmctld did not answer")
        return self.said

    def answer(self) -> str:
        """Check that slurmctld answers."""
        where = self.directory()
        self.said = controller.configuration()
        version = self.said.get("SLURM_VERSION", "unknown version")
        return f"{version}, configuration in {where}; asked by {controller.asked_by()}"

    def preemption(self) -> str:
        """Check that some partition's jobs are preempted by requeueing, with time to write a checkpoint."""
        kind = self.configuration().get("PreemptType", "")
        if kind == grace.BY_QOS:
            return preemption_by_qos()
        partitions = controller.partitions()
        top = max((int(entry["PriorityTier"]) for entry in partitions), default=0)
        lower = [entry for entry in partitions if int(entry["PriorityTier"]) < top]
        requeued = [entry for entry in lower if "REQUEUE" in entry["PreemptMode"]]
        if not requeued:
            modes = ", ".join(f"{entry['PartitionName']} {entry['PreemptMode']}" for entry in partitions)
            raise ShimError(
                f"no partition below another one is preempted by requeueing: {modes or 'none'}",
                "slurm.conf: PartitionName=... PriorityTier=... PreemptMode=REQUEUE GraceTime=60",
            )
        short = [entry["PartitionName"] for entry in requeued if entry["GraceTime"] == "0"]
        if short:
            raise ShimError(
                f"no time to write a checkpoint: GraceTime=0 of {', '.join(short)}",
                "slurm.conf: GraceTime=60 or more for these partitions",
            )
        found = [f"{entry['PartitionName']} GraceTime={entry['GraceTime']}" for entry in requeued]
        others = [entry for entry in lower if entry not in requeued and entry["PreemptMode"] != "OFF"]
        found += [f"{entry['PartitionName']} is not requeued: PreemptMode={entry['PreemptMode']}" for entry in others]
        return ", ".join(found)

    def requeues(self) -> str:
        """Check that Slurm requeues a job as often as it is preempted (slurm/grace.py)."""
        said = self.configuration().get("MaxBatchRequeue", str(grace.DEFAULT_LIMIT))
        often, hint = int(said) - 2, "slurm.conf: MaxBatchRequeue=1000"
        if often < 0:
            raise ShimError(f"MaxBatchRequeue={said}: a job that was preempted is held when it has ended", hint)
        if often < ENOUGH:
            more = f"a job that is preempted more than {often} times is started once more when it has ended"
            raise Caution(f"MaxBatchRequeue={said}: {more}", hint)
        return f"MaxBatchRequeue={said}"

    def signal(self) -> str:
        """Check that a preemption is told to all steps of a job."""
        said = self.configuration()
        for key in ("PreemptParameters", "SlurmctldParameters"):
            if "send_user_signal" in said.get(key, ""):
                raise Caution(
                    f"{key}={said[key]}: a preemption of a job with --signal=B:… is told to its batch script alone, "
                    "so steps of that script are not checkpointed",
                    "tell users to leave out B:, or to have the script checkpoint the job: docs/when.md",
                )
        return "SIGTERM"

    def plugstack(self) -> str:
        """Check that plugstack.conf names the plugin, and that it is there."""
        named = self.said.get("PlugStackConfig", "") if self.said else ""
        path = named if named.startswith("/") else os.path.join(self.directory(), "plugstack.conf")
        for words in plugins(path):
            if os.path.basename(words[1]) == PLUGIN:
                return self.plugin(path, words)
        raise ShimError(f"{path} does not name {PLUGIN}", f"cat {INSTALLED_PLUGSTACK} >>{path}")

    def plugin(self, path: str, words: list[str]) -> str:
        """Check a line of plugstack.conf that names our plugin."""
        base = self.said.get("PluginDir", "") if self.said else ""
        file = os.path.join(base, words[1])
        if not os.path.exists(file):
            raise ShimError(f"{path} names {file}, which is not there", "make install on this node")
        if words[0] != "required":
            raise Caution(f"{path}: {words[0]} {file}: left out in silence if it can't be loaded", "write required")
        for directory in (word.removeprefix("metrics=") for word in words[2:] if word.startswith("metrics=")):
            if not os.path.isdir(directory):
                raise Caution(f"{path}: metrics={directory}: no such directory", f"mkdir -m 755 {directory}")
        return f"{path}: {' '.join(words[:2])}"

    def submission(self) -> str:
        """Check the filter that warns of too short a grace time at submission; if it is on, sbatch needs the file."""
        if "lua" not in self.configuration().get("CliFilterPlugins", ""):
            return f"off: sbatch does not warn of too short a GraceTime (see {INSTALLED_FILTER})"
        path = os.path.join(self.directory(), "cli_filter.lua")
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                calls = FILTER in stream.read()
        except OSError as error:
            hint = f"cp {INSTALLED_FILTER} {path}"
            raise ShimError(f"{path}: {error.strerror}: nothing can be submitted", hint) from None
        return path if calls else f"off: {path} does not call {FILTER}(options)"

    def oci(self) -> str:
        """Check that oci.conf has this runtime run the containers."""
        path = os.path.join(self.directory(), "oci.conf")
        lines = runtimes(path)
        if "RunTimeRun" not in lines and "RunTimeCreate" not in lines:
            raise ShimError(f"{path} sets neither RunTimeRun nor RunTimeCreate", f"cp {INSTALLED_OCI} {path}")
        require_guard(path, lines)
        run = lines.get("RunTimeRun", [])
        for program in run:
            if program.endswith(CHOOSER):
                require_program(path, "RunTimeRun", program)
                require_exec(path, run)
                return f"{path}: each job chooses its runtime, by {program}"
        for key, words in lines.items():
            runtime(path, key, words)
        require_exec(path, run)
        return f"{path}: {', '.join(lines)}"


def preemption_by_qos() -> str:
    """Check that a QOS has a GraceTime; not which QOS are preempted, or how."""
    try:
        found = {name: seconds for name, seconds in controller.grace_times().items() if seconds}
    except ShimError as error:
        said = f"the GraceTime of no QOS is known here, so no job is warned of one that is too short: {error}"
        raise Caution(said, error.hint or "let nodes and submit hosts reach slurmdbd, which sacctmgr asks") from None
    if not found:
        hint = "sacctmgr modify qos NAME set GraceTime=60, and PreemptMode=requeue"
        raise Caution("no QOS has a GraceTime: a job of it has no time to write a checkpoint", hint)
    return ", ".join(f"QOS {name} GraceTime={seconds}" for name, seconds in found.items())


def require_guard(path: str, lines: dict[str, list[str]]) -> None:
    """Raise ShimError if root would trust what is in a job's directory, which is the user's."""
    guard = GUARD.split()
    without = {key: lines[key] for key in BY_ROOT if named(lines.get(key, [])) and lines[key][: len(guard)] != guard}
    if without:
        keys = ", ".join(without)
        raise ShimError(
            f"{path}: slurmstepd runs {keys} as root, too, in a directory of the job's user, who may become root by it",
            "\n".join(["replace on all nodes:", *(setting(key, [*guard, *words]) for key, words in without.items())]),
        )


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
    hint = f"cp {INSTALLED_OCI} {path}"
    program = named(words)
    if program is None:
        raise ShimError(f"{path}: {key} is not by {PROGRAM}: {' '.join(words)}", hint)
    require_program(path, key, program)
    if ROOT not in " ".join(words):
        raise ShimError(f"{path}: {key} does not name {ROOT}, where the plugin looks for containers", hint)


def require_program(path: str, key: str, program: str) -> None:
    """Raise ShimError if a program that a line of oci.conf names is not there."""
    if program.startswith("/") and not os.access(program, os.X_OK):
        raise ShimError(f"{path}: {key}: {program} is not there", "make install on this node, or correct the path")


def require_exec(path: str, words: list[str]) -> None:
    """Raise Caution if RunTimeRun's shell stays: slurmstepd then sends its signals to the shell."""
    if words and words[0] != "exec":
        raise Caution(f"{path}: RunTimeRun has no exec: signals reach a shell only", f"begin it with: exec {words[0]}")


def plugins(path: str) -> Iterator[list[str]]:
    """Yield the words of every line of plugstack.conf, and of the files that it includes (spank(7))."""
    for words in lines_of(path):
        if words[0] == "include":
            for pattern in words[1:]:
                for other in sorted(glob.glob(os.path.join(os.path.dirname(path), pattern))):
                    yield from plugins(other)
        elif len(words) > 1:
            yield words


def runtimes(path: str) -> dict[str, list[str]]:
    """Return {setting: words of the command line} of oci.conf's command lines (oci.conf(5))."""
    found = {}
    for words in lines_of(path):
        key, _, value = " ".join(words).partition("=")
        for name in COMMANDS:
            if key.strip().lower() == name.lower():
                found[name] = value.split()
    return found


def lines_of(path: str) -> Iterator[list[str]]:
    """Yield the words of lines that have any; raise ShimError if the file can't be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
    except OSError as error:
        raise ShimError(f"{path}: {error.strerror}", "make install puts an example on this node: README.md") from None
    except ValueError as error:
        raise ShimError(f"{path}: {error}", "correct the file") from None
    yield from (line for line in words if line)


def checks() -> list[Check]:
    """Return the checks of one Site; the first asks slurmctld."""
    site = Site()
    rules: list[Check] = [(rule.key, functools.partial(rule.check, site)) for rule in RULES]
    files: list[Check] = [("plugstack.conf", site.plugstack), ("oci.conf", site.oci), ("submission", site.submission)]
    preemption = [("preemption", site.preemption), ("preemption's signal", site.signal), ("requeues", site.requeues)]
    return [("slurm", site.answer), *rules, *preemption, *files]
