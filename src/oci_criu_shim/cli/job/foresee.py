"""`job foresee`: warn if a job that is being submitted can't be checkpointed in its partition's grace time.

etc/cli_filter.lua calls it with the options of sbatch, salloc and srun as Slurm gives them there. It prints one line or
nothing, and never fails, so that it holds up no submission.
"""

from __future__ import annotations

import os

from oci_criu_shim import config, units
from oci_criu_shim.errors import ShimError
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
    """Warn if a job's grace time would be too short for a checkpoint."""
    try:
        settings, named = config.load(), call.value("partition")
        for partition in controller.partitions():
            chosen = named.split(",") if named else [partition["PartitionName"]] * (partition["Default"] == "YES")
            if partition["PartitionName"] in chosen and (said := _warning(call, partition, settings)):
                call.log.event(said)
                break
    except (ShimError, OSError) as error:
        call.log.debug(str(error))
    return 0


def _warning(call: Invocation, partition: Mapping[str, str], settings: Settings) -> str:
    """Return what is wrong with the job in that partition; empty if nothing is."""
    name = partition["PartitionName"]
    grace = controller.grace_time(name, call.value("qos") or "")
    text = call.value("checkpoint") or ""
    when = parse(settings.when(name) if text in WITHOUT_VALUE else text, call.value("checkpoint-interval"))
    size = memory({name: call.value(name) or "" for name in call.given}, partition)
    directory = os.path.abspath(call.value("checkpoint-dir") or settings.checkpoint_dir)
    seconds = estimate.slowest(directory, settings.dump_rate).seconds(size)
    if not when.preempt or not grace or seconds <= grace:
        return ""
    what = f"the job may use {units.size(size)} of memory, of which"
    return estimate.too_long(what, seconds, name, grace, when.interval is not None)


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
