"""`job foresee`: tell whether a job that is being submitted can be checkpointed in its partition's grace time.

etc/cli_filter.lua calls it with the options of sbatch, salloc and srun as Slurm gives them there, and --quiet: then it
prints a warning or nothing. It never fails, so that it holds up no submission.
"""

from __future__ import annotations

import os

from oci_criu_shim import config, units
from oci_criu_shim.errors import ShimError, line_of
from oci_criu_shim.slurm import controller
from oci_criu_shim.task import estimate
from oci_criu_shim.when import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.config import Settings

OPTIONS = ("mem", "mem-per-cpu", "cpus-per-task", "ntasks", "ntasks-per-node", "nodes")
WITHOUT_VALUE = ("set", "default")  # of --checkpoint, in Slurm's words and in ours


def foresee(call: Invocation) -> int:
    """Say whether a job's grace time would be long enough for a checkpoint."""
    try:
        found = [_expect(call, partition, config.load()) for partition in _partitions(call)]
    except (ShimError, OSError) as error:
        found = [(False, line_of(error))]
    warnings = [said for warns, said in found if warns]
    for said in warnings[:1] if warnings or call.flag("quiet") else [said for _, said in found]:
        call.log.event(said)
    return 0


def _partitions(call: Invocation) -> list[dict[str, str]]:
    """Return the partitions that --partition names, or Slurm's default; raise ShimError if there is none."""
    named = call.value("partition")
    found = [one for one in controller.partitions() if _is_chosen(one, named)]
    if not found:
        raise ShimError(f"there is no partition {named}" if named else "no partition is the default: give --partition")
    return found


def _is_chosen(partition: Mapping[str, str], named: str | None) -> bool:
    return partition["PartitionName"] in named.split(",") if named else partition["Default"] == "YES"


def _expect(call: Invocation, partition: Mapping[str, str], settings: Settings) -> tuple[bool, str]:
    """Return whether to warn of what becomes of the job in that partition, and what that is, in words."""
    name = partition["PartitionName"]
    grace = controller.grace_time(name, call.value("qos") or "")
    text = call.value("checkpoint")
    if text is None:
        return False, "without --checkpoint nothing is checkpointed: give --checkpoint=preempt, say"
    when = parse(settings.when(name) if text in WITHOUT_VALUE else text, call.value("checkpoint-interval"))
    size = memory({name: call.value(name) or "" for name in OPTIONS if call.flag(name)}, partition)
    directory = os.path.abspath(call.value("checkpoint-dir") or settings.checkpoint_dir)
    seconds = estimate.slowest(directory, settings.dump_rate).seconds(size)
    if not when.preempt:
        return False, f"--checkpoint={text} takes no checkpoint at a preemption"
    if not grace:
        return False, f"a preemption in partition {name} gives no time for a checkpoint, or there is none"
    if not size:
        return False, f"how much memory the job may use is not known (--mem); a preemption gives {grace} s"
    if seconds <= grace:
        what = f"a checkpoint of up to {units.size(size)} takes about {seconds:.0f} s"
        return False, f"{what}, and a preemption in partition {name} gives {grace} s"
    return True, estimate.too_long(f"up to {units.size(size)}", seconds, name, grace, when.interval is not None)


def memory(options: Mapping[str, str], partition: Mapping[str, str]) -> int:
    """Return how many bytes a job with these `options` may use on a node of `partition`; 0 if that is not known."""
    default = "0" if "mem-per-cpu" in options else partition["DefMemPerNode"]
    if "mem" in options or default != "0":
        return _bytes(options.get("mem", default))
    number = {name: _number(options.get(name, "")) for name in OPTIONS}
    tasks = number["ntasks-per-node"] or -(-number["ntasks"] // (number["nodes"] or 1)) or 1
    each = options.get("mem-per-cpu") or partition["DefMemPerCPU"]
    return _bytes(each) * tasks * (number["cpus-per-task"] or 1)


def _bytes(text: str) -> int:
    """Return the bytes of Slurm's `4000`, which are MiB, or `4G`; 0 if it is neither, or all that a node has."""
    try:
        return int(text) << 20 if text.isdecimal() else units.parse_size(text)
    except ValueError:
        return 0


def _number(text: str) -> int:
    """Return the first number of `4` or `4-8`; 0 if none is set, for which Slurm has several words."""
    first = text.partition("-")[0]
    return int(first) if first.isdecimal() else 0
