"""Measures what checkpoints cost: compression, time by size beside plain CRIU, and a job's own time if periodic.

The memory that is compressed is that of a NumPy program with arrays, parsed JSON and text (bench/programs/memory.py),
dumped by CRIU. Dumps and restores are those of root, of a container and of the same program outside of any. The
container's are flushed and have checksums, plain CRIU's neither; a restore finds the images in the page cache. The
compute loop changes all of its memory in each round, and its seconds are by its own clock.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

from bench.report import Measure, Progress, Result, ratios, versions
from bench.startup import BUNDLE
from bench.verbs import make_bundle_of_root
from tests.harness import jobs
from tests.harness.cluster import Cluster, ClusterError
from tests.harness.cluster.settings import REPOSITORY

SIZES = {64: 3, 256: 3, 1024: 2, 4096: 1}  # MiB: runs
CODECS = (256, 2)  # MiB, runs
ROUNDS, MIB, RUNS = 100, 128, 2  # of the compute loop
TIMEOUT = 300
EVERY = ("--checkpoint=interval:10s", *jobs.OPTIONS[1:])
PROGRAMS = REPOSITORY / "bench/programs"


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes some minutes. Raise ClusterError if a program fails."""
    with Cluster("bench-store", nodes=1) as cluster:
        jobs.prepare(cluster)
        make_bundle_of_root(cluster.shared / "store")
        shutil.copy(PROGRAMS / "compute.py", cluster.shared)
        result = Result(versions(cluster))
        progress("codecs")
        _codecs(cluster, result)
        for mib, runs in SIZES.items():
            progress(f"{mib} MiB")
            _size(cluster, result, mib, runs)
        _overhead(cluster, result, progress)
    return result


def _run(cluster: Cluster, *words: object) -> Any:
    """Run the program on the node; return what it prints."""
    argv = ["python3", "-ISB", f"/src/{(PROGRAMS / 'store.py').relative_to(REPOSITORY)}", *map(str, words)]
    return json.loads(cluster.exec("n1", argv, "root", timeout=TIMEOUT).stdout)


def _codecs(cluster: Cluster, result: Result) -> None:
    found = _run(cluster, "codecs", *CODECS)
    raw = found.pop("raw")["bytes"]
    group = f"codecs, {CODECS[0]} MiB"
    result.measures["raw_bytes"] = Measure.of([raw], "B", group=group)
    for name, about in found.items():
        result.measures |= {
            f"{name}_bytes": Measure.of([about["bytes"]], "B", group=group),
            f"{name}_ratio": Measure.of([about["bytes"] / raw], "ratio", group=group),
            f"{name}_compress": Measure.of(about["pack"], group=group),
            f"{name}_unpack": Measure.of(about["unpack"], group=group),
        }


def _size(cluster: Cluster, result: Result, mib: int, runs: int) -> None:
    found = _run(cluster, "sizes", mib, runs)
    wanted = {
        f"{program}_{what}": found[program][what] for what in ("dump", "restore") for program in ("shim", "plain")
    }
    wanted["shim_frozen_before_commit"] = found["shim"]["frozen"]
    for name, seconds in wanted.items():
        result.measures[f"{name}_{mib}_mib"] = Measure.of(seconds, group=f"{mib} MiB")


def _overhead(cluster: Cluster, result: Result, progress: Progress) -> None:
    times: dict[str, list[float]] = {"alone": [], "interval": []}
    taken = []
    for number in range(RUNS):
        for name, options in (("alone", ()), ("interval", EVERY)):
            progress(f"compute loop, {number + 1} of {RUNS}")
            output = _compute(cluster, options)
            times[name].append(_seconds(output))
        taken.append(len(re.findall("^oci-criu-shim: checkpointed", output, re.MULTILINE)))  # of the last, periodic one
    group = "a compute loop"
    result.measures |= {f"loop_{name}": Measure.of(seconds, group=group) for name, seconds in times.items()}
    interval = ratios(times["interval"], times["alone"])
    result.measures["loop_interval_ratio"] = Measure.of(interval, "ratio", group=group)
    result.measures["loop_checkpoints"] = Measure.of(taken, "each", group=group)


def _compute(cluster: Cluster, options: tuple[str, ...]) -> str:
    """Run a job with the compute loop; return its output."""
    argv = ["sbatch", "--parsable", "--wait", "-p", "low", "-n1", "--output=/home/alice/%j.out", *options]
    argv += [f"--container={BUNDLE}", "--wrap", f"exec python3 /shared/compute.py {ROUNDS} {MIB}"]
    number = cluster.exec("ctl", argv, timeout=TIMEOUT).stdout.strip()
    return (cluster.home / "alice" / f"{number}.out").read_text()


def _seconds(output: str) -> float:
    found = re.search(r"^seconds (\S+)$", output, re.MULTILINE)
    if not found:
        raise ClusterError(f"the compute loop has failed: {output}")
    return float(found[1])
