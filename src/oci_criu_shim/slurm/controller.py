"""Ask Slurm, and give it commands, as its user: no other package does.

pyslurm answers questions if it is installed and of Slurm's own version, else Slurm's commands do.
"""

from __future__ import annotations

import functools
import os
import re
import signal

from oci_criu_shim.errors import Others, ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm.commands import Commands, environment, program, run
from oci_criu_shim.slurm.grace import BY_QOS, Fate, fate
from oci_criu_shim.slurm.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.slurm.commands import Part

# Paths of slurm.conf: the site's own, or the one that a node without it was sent (configless Slurm).
CONF = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
# A signal that no program catches. It does not reach a job that is being requeued already: SIGKILL would cancel that
# (job_signal() in slurmctld). scancel itself leaves out a job that does not run, or it would try again for minutes.
END_BATCH_STEP = ("scancel", "--state=RUNNING", "--batch", f"--signal={signal.SIGRTMAX}")
# Seconds before the end of the grace time, in which a signal gets to the batch step, and slurmctld hears that the step
# has ended; and seconds before the time limit.
MARGIN = 2
# A shell's script that requeues a job then, unless its limit was changed meanwhile: squeue tells when it ends.
REQUEUE = 'end=$("$1" -hj "$3" -o %e) && sleep "$0" && [ "$("$1" -hj "$3" -o %e)" = "$end" ] && exec "$2" requeue "$3"'


def conf_directory() -> str | None:
    """Return the directory of this node's slurm.conf; None if there is none: clients would ask DNS, and wait."""
    named = os.environ.get("SLURM_CONF")
    for path in [named] if named else CONF:
        if os.path.exists(path):
            return os.path.dirname(path)
    return None


@functools.cache
def _slurm() -> Commands:
    """Return the library or the commands that answer questions."""
    if conf_directory():
        from oci_criu_shim.slurm import library

        try:
            return library.Library(library.load())
        except ShimError as error:
            return Commands(str(error))
    return Commands("there is no slurm.conf")


def job(number: int, soon: bool = False) -> Job:
    """Look at a job; ShimError if Slurm can't tell.

    If the answer is wanted `soon`, a command gives it: importing pyslurm takes 0.1 s, in which scontrol answers five
    times.
    """
    return Job((Commands() if soon else _slurm()).job(number))


def configuration() -> dict[str, str]:
    """Return {name: value} of slurm.conf, as slurmctld has it."""
    return _slurm().configuration()


def partitions() -> list[dict[str, str]]:
    """Return {name: value} of each partition, as Commands.partitions() does."""
    return _slurm().partitions()


def features() -> set[str]:
    """Return the features that nodes have."""
    return _slurm().features()


def grace_times() -> dict[str, int]:
    """Return {QOS: seconds that its jobs have when they are preempted, if PreemptType is preempt/qos}."""
    return _slurm().grace_times()


def grace_time(partition: str, qos: str) -> int:
    """Return the seconds that a job of `partition` and `qos` has when it is preempted."""
    if configuration().get("PreemptType") == BY_QOS:
        return grace_times().get(qos, 0)
    return next((int(found["GraceTime"]) for found in partitions() if found["PartitionName"] == partition), 0)


def known_jobs(ended: bool = True) -> set[int]:
    """Return the ids of the user's jobs that slurmctld knows: those that wait and those that run.

    If `ended`, it includes those that ended a while ago (MinJobAge), which could still be requeued.
    """
    return _slurm().known_jobs(ended)


def held() -> dict[int, str]:
    """Return {id: Slurm's reason} of the user's jobs that are held."""
    return _slurm().held()


def asked_by() -> str:
    """Return a text that names what answers these questions."""
    return _slurm().describe()


def end_batch_step(name: str) -> None:
    """End the batch script of the job `name` (tasks.Task.name) in its grace time, so that slurmctld requeues the job.

    Nothing happens if slurmctld does so already. This counts, see slurm/grace.py.
    """
    run(*END_BATCH_STEP, name)


def end_batch_step_after_grace(number: int) -> None:
    """Have end_batch_step() done just before the end of a job's grace time, and return at once.

    At that end slurmctld would requeue the job itself, and leave its mark of the grace time on it, as `scontrol
    requeue` does. The process that waits ends with its step.
    """
    found = job(number)
    _at_the_end(found, 'sleep "$0" && exec "$@"', program(END_BATCH_STEP[0]), *END_BATCH_STEP[1:], found.name)


def requeue_before_limit(number: int) -> None:
    """Have a job requeued just before its time limit, and return at once; the process that waits ends with its step."""
    found = job(number)
    _at_the_end(found, REQUEUE, program("squeue"), program("scontrol"), found.name)


def _at_the_end(found: Job, script: str, *words: str) -> None:
    """Have a shell run `script` with `words`; its $0 is the time to wait, in seconds."""
    rest = max(found.seconds_left() - MARGIN, 0)
    try:
        process.spawn(["/bin/sh", "-c", script, f"{rest:.1f}", *words], environment(), {})
    except OSError as error:
        hint = f"scontrol requeue {found.name}, once it has ended"
        raise ShimError(f"can't start a process that waits for the job's end: {error.strerror}", hint) from None


def running(name: str) -> list[Part]:
    """Return the caller's jobs of that name that run; ShimError if there is none.

    `name` is a number, an array's 12_3 or a heterogeneous job's 12+1. A number may be that of a whole array or
    heterogeneous job.
    """
    parts = Commands().parts(name)
    number, uid, states = parts[0]["job"], parts[0]["uid"], parts[0]["states"]
    if uid != os.geteuid():
        user = process.user_name(uid)
        raise Others(f"job {number} belongs to user {user}", "only the job's owner may do this", user)
    found = [part for part in parts if "RUNNING" in part["states"]]
    if not found:
        hint = "`squeue --me --states=running` lists the jobs that do"
        raise ShimError(f"job {number} does not run: it is {' '.join(states)}", hint)
    return found


def state_of(number: int) -> tuple[str, str]:
    """Return a job's state, and why it waits, in Slurm's words; empty ones if Slurm knows it no more.

    Raise ShimError if Slurm doesn't answer.
    """
    try:
        words = run("squeue", f"--jobs={number}", "--states=all", "--noheader", "--format=%T %r").split(None, 1)
    except ShimError as error:
        if "Invalid job id" not in str(error):
            raise
        words = []
    return (words[0], words[1].strip()) if words[1:] else ("", "")


def require(number: int, nodes: str) -> None:
    """Have a job that waits run on `nodes`; on any if that is empty."""
    run("scontrol", "update", f"JobId={number}", f"ReqNodeList={nodes}")


def addresses(node: str) -> list[str]:
    """Return the addresses by which Slurm's daemons reach a node, and its name."""
    found = re.search(r"NodeAddr=(\S+)", run("scontrol", "show", "node", node, "--oneliner"))
    return list(dict.fromkeys([*([found[1]] if found else []), node]))


def private_memory() -> str:
    """Return the plugin that gives each job a /dev/shm of its own; empty if none does."""
    settings = configuration()
    found = settings.get("NamespaceType") or settings.get("JobContainerType", "")  # the latter before Slurm 25.11
    return "" if found in ("", "(null)") or found.endswith("/none") else found


def requeue(number: int, known: Fate | None = None) -> None:
    """Have a job start again, unless that is under way already; `known` is its fate."""
    found = job(number)
    if found.waits:
        return
    if found.is_preempted and (known or fate(found)).counts:
        end_batch_step(found.name)
    else:
        run("scontrol", "requeue", found.name)


def remark(number: int, mark: str, text: str) -> None:
    """Have a job's comment end with `mark` and `text`, in place of any earlier `mark` and its text."""
    found = job(number)
    users = found.fields["comment"].partition(mark)[0].rstrip(" |")
    run("scontrol", "update", f"JobId={found.name}", f"Comment={users}{' | ' if users else ''}{mark}{text}")


def has_another_node(found: Job, node: str, required: str) -> bool:
    """Return whether a job can be requeued, and its partition has enough nodes besides `node` and those it excludes.

    It has not if its user has `required` nodes.
    """
    wanted = found.fields
    if not (wanted["requeue"] and wanted["batch"]) or required:
        return False
    words = ("sinfo", f"--partition={wanted['partition']}", "--Node", "--noheader", "--format=%N")
    return len(set(run(*words).split()) - {node, *_expand(wanted["excluded_nodes"])}) >= wanted["node_count"]


def can_wait_for(found: Job, node: str, required: str) -> bool:
    """Return whether a job can be requeued to run on `node`: it takes one node, which its partition has.

    If its user has `required` nodes, it must be one of them.
    """
    wanted = found.fields
    if not (wanted["requeue"] and wanted["batch"]) or wanted["node_count"] != 1:
        return False
    if required and node not in _expand(required):
        return False
    words = ("sinfo", f"--partition={wanted['partition']}", f"--nodes={node}", "--Node", "--noheader", "--format=%N")
    return node in run(*words).split()


def waiting_for(found: Job, node: str) -> list[str]:
    """Return the words of `scontrol update` that have a job, while it is pending, wait for `node`."""
    excluded = _expand(found.fields["excluded_nodes"])
    others = ",".join(name for name in excluded if name != node)
    return [*([f"ExcNodeList={others}"] if node in excluded else []), f"ReqNodeList={node}"]


def _expand(nodes: str) -> list[str]:
    return run("scontrol", "show", "hostnames", nodes).split() if nodes else []
