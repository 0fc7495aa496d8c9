"""Check Slurm: what slurm.conf must say."""

from __future__ import annotations

import functools
import os
import re

from oci_criu_shim import values
from oci_criu_shim.cli.doctor import settings
from oci_criu_shim.cli.doctor.oci import Oci
from oci_criu_shim.cli.doctor.plugstack import Plugstack
from oci_criu_shim.cli.doctor.slurmconf import READ_IT, RECONFIGURE, SlurmConf
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller, grace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.doctor.verdicts import Check

INSTALLED_FILTER = "/etc/oci-criu-shim/cli_filter.lua"
FILTER = "oci_criu_shim_foresee"
ENOUGH = 100  # requeues that MaxBatchRequeue should allow a job
GRACE_TIME, KILL_WAIT = 15, 5  # seconds; in less, even a small checkpoint may not be done
BELOW = f"slurm.conf: PartitionName=... PriorityTier=... PreemptMode=REQUEUE GraceTime=60, then {RECONFIGURE}"
LITTLE = "GraceTime={} of {}: hardly any checkpoint is written in that time"
NOT_NEEDED = "(--checkpoint=timeout and interval:TIME need no preemption)"


class Rule:
    """A setting of slurm.conf that must have one of `values` in its list; `why` says what is wrong without."""

    def __init__(self, key: str, values: tuple[str, ...], why: str, failure: type[ShimError] = ShimError) -> None:
        self.key = key
        self.values = values
        self.why = why
        self.failure = failure

    def check(self, conf: SlurmConf) -> str:
        """Return the setting; raise `failure` if it is wrong."""
        value = conf.values().get(self.key, "")
        if not self.allows(value):
            raise self.failure(f"{self.key}={value}: {self.why}", conf.hint(self.key, self.values[0], self.allows))
        return f"{self.key}={value}"

    def allows(self, value: str) -> bool:
        """Return whether a value is right."""
        return bool(set(value.lower().split(",")) & {word.lower() for word in self.values})


PREEMPT_TYPE = Rule(
    "PreemptType", ("preempt/partition_prio", grace.BY_QOS), f"no job is ever preempted {NOT_NEEDED}", Caution
)
RULES = (
    Rule("PrologFlags", ("Contain",), "jobs have no extern step, and Slurm tells only that one of a preemption"),
    Rule("ProctrackType", ("proctrack/cgroup",), "the extern step's signals do not reach the plugin's watcher"),
    PREEMPT_TYPE,
    Rule("JobRequeue", ("1",), "a preempted job is cancelled unless it asked for --requeue"),
    Rule("JobFileAppend", ("1",), "a requeued job overwrites its output, unless it has --open-mode=append", Caution),
)


class Site:
    """What jobs need of Slurm's settings."""

    def __init__(self, conf: SlurmConf) -> None:
        self.conf = conf

    def preemption(self) -> str:
        """Check that some partition's jobs are preempted by requeueing, with time to write a checkpoint."""
        kind = self.conf.values().get("PreemptType", "")
        if kind == grace.BY_QOS:
            return preemption_by_qos()
        if not PREEMPT_TYPE.allows(kind):
            raise Skipped(f"PreemptType={kind}")
        partitions = controller.partitions()
        lower = below_another(partitions)
        requeued = [entry for entry in lower if is_requeued(entry)]
        if not requeued:
            modes = ", ".join(f"{entry['PartitionName']} {entry['PreemptMode']}" for entry in partitions)
            raise Caution(
                f"no partition below another one is preempted by requeueing: {modes or 'none'} {NOT_NEEDED}",
                READ_IT if any(map(is_requeued, below_another(self.written()))) else BELOW,
            )
        self.require_grace(requeued)
        found = [f"{entry['PartitionName']} GraceTime={entry['GraceTime']}" for entry in requeued]
        others = [entry for entry in lower if entry not in requeued and entry["PreemptMode"] != "OFF"]
        found += [f"{entry['PartitionName']} is not requeued: PreemptMode={entry['PreemptMode']}" for entry in others]
        return ", ".join(found)

    def written(self) -> list[dict[str, str]]:
        """Return the partitions as slurm.conf has them, by scontrol's names for what they have."""
        mode = self.conf.values().get("PreemptMode", "OFF")
        numbered = [found for found in self.conf.partitions().values() if found.get("prioritytier", "1").isdecimal()]
        return [
            {"PriorityTier": found.get("prioritytier", "1"), "PreemptMode": found.get("preemptmode", mode)}
            for found in numbered
        ]

    def require_grace(self, partitions: list[dict[str, str]]) -> None:
        """Raise ShimError or Caution if there is no or little time to write a checkpoint in a partition."""
        shortest = min(partitions, key=lambda entry: int(entry["GraceTime"]))
        seconds, name = int(shortest["GraceTime"]), shortest["PartitionName"]
        if seconds >= GRACE_TIME:
            return
        hint = self.conf.hint("GraceTime", "60", lambda text: text.isdecimal() and int(text) >= GRACE_TIME, name)
        if seconds:
            raise Caution(LITTLE.format(seconds, f"partition {name}"), hint)
        raise ShimError(f"no time to write a checkpoint: GraceTime=0 of {name}", hint)

    def requeues(self) -> str:
        """Check that Slurm requeues a job as often as it is preempted (slurm/grace.py)."""
        said = self.conf.values().get("MaxBatchRequeue", str(grace.DEFAULT_LIMIT))
        often = int(said) - 2
        hint = self.conf.hint("MaxBatchRequeue", "1000", lambda text: text.isdecimal() and int(text) - 2 >= ENOUGH)
        if often < 0:
            raise ShimError(f"MaxBatchRequeue={said}: a job that was preempted is held when it has ended", hint)
        if often < ENOUGH:
            more = f"a job that is preempted more than {often} times may be started once more when it has ended"
            raise Caution(f"MaxBatchRequeue={said}: {more}", hint)
        return f"MaxBatchRequeue={said}; a job whose node fails waits {self._delay()} s before it starts again"

    def _delay(self) -> str:
        """Return for how long Slurm holds a requeued job back, in seconds, unless its epilog makes it eligible."""
        said = self.conf.values()
        since_25_11 = re.search(r"\brequeue_delay=(\d+)", said.get("SchedulerParameters", ""))
        found = since_25_11 or re.search(r"\bcred_expire=(\d+)", said.get("AuthInfo", ""))
        return found[1] if found else "120"

    def signalled(self) -> str:
        """Check that Slurm's signals reach a task's first process alone, and not what is to be checkpointed."""
        said = self.conf.values().get("SignalChildrenProcesses", "no")
        if said == "yes":
            raise ShimError(
                "SignalChildrenProcesses=yes: a preemption's SIGTERM goes to the programs of all steps",
                f"cgroup.conf: SignalChildrenProcesses=no, then {RECONFIGURE}",
            )
        return f"SignalChildrenProcesses={said}"

    def kill_wait(self) -> str:
        """Check that a job which is requeued before its time limit, or by hand, has time for its checkpoints."""
        said = self.conf.values().get("KillWait", "").partition(" ")[0]
        if said.isdecimal() and int(said) < KILL_WAIT:
            hint = self.conf.hint("KillWait", "30", lambda text: text.isdecimal() and int(text) >= KILL_WAIT)
            why = "a job of several nodes that is requeued before its time limit has hardly time for a checkpoint"
            raise Caution(f"KillWait={said}: {why}", hint)
        return f"KillWait={said}"

    def signal(self) -> str:
        """Check that a preemption is told to all steps of a job."""
        said = self.conf.values()
        for key in ("PreemptParameters", "SlurmctldParameters"):
            if "send_user_signal" in said.get(key, ""):
                raise Caution(
                    f"{key}={said[key]}: a preemption of a job with --signal=B:… is told to its batch script alone, "
                    "so steps of that script are not checkpointed",
                    "tell users to leave out B:, or to have the script checkpoint the job: docs/when.md",
                )
        return "SIGTERM"

    def names(self) -> str:
        """Check that Slurm knows the feature and the partitions that config.toml names."""
        self.conf.values()
        loaded, _ = settings.usable()
        if loaded.feature and loaded.feature not in (known := controller.features()):
            said = f"config.toml: feature = {values.shown(loaded.feature)}: no node has it, so requeued jobs wait"
            raise ShimError(said, f"name one that nodes have ({', '.join(sorted(known)) or 'none has any'}), or none")
        partitions = {entry["PartitionName"] for entry in controller.partitions()} if loaded.partitions else set()
        if unknown := [name for name in loaded.partitions if name not in partitions]:
            said = f"config.toml: [partitions.{unknown[0]}] has no effect: Slurm has no such partition"
            raise Caution(said, f"its partitions: {', '.join(sorted(partitions))}")
        found = [*([f"feature {loaded.feature}"] if loaded.feature else []), *loaded.partitions]
        if not found:
            raise Skipped("config.toml names no feature and no partition")
        return ", ".join(found)

    def submission(self) -> str:
        """Check the filter that warns of too short a grace time at submission; if it is on, sbatch needs the file."""
        path = os.path.join(self.conf.directory(), "cli_filter.lua")
        if "lua" not in self.conf.values().get("CliFilterPlugins", ""):
            hint = f"to have it, cp {INSTALLED_FILTER} {path}, and slurm.conf: CliFilterPlugins=lua"
            raise Skipped("off: sbatch gives no warning when GraceTime is too short", hint)
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                calls = FILTER in stream.read()
        except OSError as error:
            hint = f"cp {INSTALLED_FILTER} {path}"
            raise ShimError(f"{path}: {error.strerror}: nothing can be submitted", hint) from None
        if not calls:
            raise Skipped(f"off: {path} does not call {FILTER}(options)", f"{INSTALLED_FILTER} says how")
        return path


def below_another(partitions: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the partitions that have another one above them."""
    top = max((int(entry["PriorityTier"]) for entry in partitions), default=0)
    return [entry for entry in partitions if int(entry["PriorityTier"]) < top]


def is_requeued(partition: dict[str, str]) -> bool:
    """Return whether a partition's jobs are requeued when they are preempted."""
    return "REQUEUE" in partition["PreemptMode"].upper()


def preemption_by_qos() -> str:
    """Check that a QOS has a GraceTime; not which QOS are preempted, or how."""
    try:
        found = {name: seconds for name, seconds in controller.grace_times().items() if seconds}
    except ShimError as error:
        said = f"the GraceTime of no QOS is known here, so no job is warned of one that is too short: {error}"
        raise Caution(said, error.hint or "let nodes and submit hosts reach slurmdbd, which sacctmgr asks") from None
    if not found:
        hint = "sacctmgr modify qos NAME set GraceTime=60 PreemptMode=requeue"
        raise Caution("no QOS has a GraceTime: a job of it has no time to write a checkpoint", hint)
    name = min(found, key=lambda name: found[name])
    if found[name] < GRACE_TIME:
        raise Caution(LITTLE.format(found[name], f"QOS {name}"), f"sacctmgr modify qos {name} set GraceTime=60")
    return ", ".join(f"QOS {name} GraceTime={seconds}" for name, seconds in found.items())


def checks() -> list[Check]:
    """Return the checks of Slurm; the first asks slurmctld."""
    conf = SlurmConf()
    site, plugstack, oci = Site(conf), Plugstack(conf), Oci(conf)
    rules: list[Check] = [(rule.key, functools.partial(rule.check, conf)) for rule in RULES]
    preemption: list[Check] = [
        ("preemption", site.preemption),
        ("preemption's signal", site.signal),
        ("requeues", site.requeues),
        ("KillWait", site.kill_wait),
        ("names in config.toml", site.names),
    ]
    files: list[Check] = [
        ("plugstack.conf", plugstack.check),
        ("slurmd", plugstack.loaded),
        ("oci.conf", oci.check),
        ("cgroup.conf", site.signalled),
        ("submission", site.submission),
    ]
    return [("slurm", conf.answer), *rules, *preemption, *files]
