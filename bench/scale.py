"""Simulates what pacing brings (docs/pacing.md): JOBS jobs are preempted within WINDOW seconds onto one file system.

Each job has a node of its own. Its memory is drawn from a lognormal distribution; in some runs all have the median.
Memory is written raw, or compressed on its way by PROCESSORS processors; straight to the shared file system within the
grace time, or to the node's own disk, from which the node copies it later, as long as that is up. What one node does is
measured: by other benchmarks, if build/bench has what they found, or as docs/performance.md has it. See bench/crowd.py.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.crowd import Crowd, Disk, Dump
from bench.report import RESULTS, Measure, Progress, Result

JOBS, WINDOW, GRACE = 1000, 60.0, 120.0
GIB = 1 << 30
MEDIAN, SIGMA, LEAST, MOST = 8 * GIB, 1.0, GIB / 2, 64 * GIB
BANDWIDTH, CROWD = 40e9, 64  # bytes a second; writers from which on a crowded file system gets slower
PROCESSORS = 8
GRACES = (60.0, 120.0, 300.0, 600.0)
WRITERS = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Node:
    """What one node does, in seconds and bytes a second."""

    freezes: float = 0.3
    """From a preemption's signal until the program is frozen."""
    writes: float = 0.9e9
    """What CRIU writes to the node's own disk."""
    packs: float = 0.15e9
    """What zstd compresses, per processor."""
    shrinks: float = 0.36
    """What it leaves."""

    def rate(self, is_packed: bool) -> float:
        """Return how many bytes a second it writes, if the file system takes them."""
        return min(self.writes, PROCESSORS * self.packs * self.shrinks) if is_packed else self.writes


def measured(directory: str = str(RESULTS)) -> Node:
    """Return what benchmarks of this machine have found, as far as they have run."""
    node = Node()
    preempt, store = _found(directory, "preempt"), _found(directory, "store")
    small, large = (preempt.get(f"commit_{mib}_mib", 0) for mib in (64, 1024))
    if 0 < small < large:
        node = replace(node, freezes=small - preempt["frozen_64_mib"], writes=(960 << 20) / (large - small))
    if seconds := store.get("zstd:1_compress"):
        packs = store["raw_bytes"] / seconds / store["cpus"]
        node = replace(node, packs=packs, shrinks=store["zstd:1_ratio"])
    return node


def _found(directory: str, name: str) -> dict[str, float]:
    """Return {measure: value} of a benchmark, and `cpus`; nothing if it has not run."""
    try:
        with open(f"{directory}/{name}.json", encoding="utf-8") as stream:
            found = json.load(stream)
    except FileNotFoundError:
        return {}
    return {**{key: one["value"] for key, one in found["measures"].items()}, "cpus": found["machine"]["cpus"]}


def memories(is_mixed: bool) -> list[float]:
    """Return the bytes of memory of each job."""
    drawn = random.Random(1)
    found = (drawn.lognormvariate(math.log(MEDIAN), SIGMA) for _ in range(JOBS))
    return [min(max(size, LEAST), MOST) if is_mixed else MEDIAN for size in found]


def dumps(sizes: Sequence[float], node: Node, is_packed: bool, grace: float) -> list[Dump]:
    """Return the checkpoints of jobs with so many bytes of memory."""
    drawn = random.Random(2)
    found = []
    for memory in sizes:
        begin, size = drawn.uniform(0, WINDOW), memory * (node.shrinks if is_packed else 1)
        found.append(Dump(begin, begin + grace, size, node.freezes, node.freezes + size / node.rate(is_packed)))
    return found


@dataclass(frozen=True)
class Outcome:
    """What came of all jobs: seconds and bytes."""

    safe: frozenset[int]
    """Those that had a checkpoint within their grace time, on their node's disk at least."""
    mean: float
    """From a job's preemption until its checkpoint was on the shared file system."""
    last: float
    """From the first preemption until the last checkpoint was there."""
    vain: float


def outcome(taken: Sequence[Dump], disk: Disk, files: int, is_staged: bool) -> Outcome:
    """Simulate it; `files` is 0 if they are not paced. What is staged has time once it is on its node's disk."""
    if is_staged:
        safe = [number for number, one in enumerate(taken) if one.begin + one.cost <= one.end]
        there = [(taken[number].begin + taken[number].cost, taken[number].size) for number in safe]
        copied = [Dump(when, math.inf, size, 0, size / disk.node) for when, size in there]
        crowd = Crowd(copied, disk, files, is_patient=True)
        committed = {safe[number]: when for number, when in crowd.committed.items()}
    else:
        crowd = Crowd(taken, disk, files)
        committed = crowd.committed
    seconds = [when - taken[number].begin for number, when in committed.items()]
    last = max(committed.values(), default=0) - min(one.begin for one in taken)
    return Outcome(frozenset(committed), statistics.mean(seconds or [0]), last, crowd.vain)


def writers(disk: Disk) -> int:
    """Return how many nodes write as much as the file system takes."""
    return math.ceil(disk.bandwidth / disk.node)


def measure(progress: Progress) -> Result:
    """Run this benchmark, which takes seconds and needs no cluster."""
    node = measured()
    result = Result({"python": sys.version.split()[0]})
    for name, value in (("freezes", node.freezes), ("shrinks", node.shrinks)):
        result.measures[f"node_{name}"] = Measure(value, "s" if name == "freezes" else "", 1)
    for name, value in (("writes", node.writes), ("writes_packed", node.rate(True)), ("packs", node.packs)):
        result.measures[f"node_{name}"] = Measure(value / 1e9, "GB/s", 1)
    for crowd, is_packed in itertools.product((math.inf, CROWD), (False, True)):
        name = f"{'steady' if crowd == math.inf else 'crowded'}_{'packed' if is_packed else 'raw'}"
        direct = Disk(BANDWIDTH, node.rate(is_packed), crowd)
        staged = Disk(BANDWIDTH, node.writes, crowd)
        progress(name)
        _compare(result, f"{name}_direct", dumps(memories(True), node, is_packed, GRACE), direct, False)
        _compare(result, f"{name}_staged", dumps(memories(True), node, is_packed, GRACE), staged, True)
        _compare(result, f"{name}_even", dumps(memories(False), node, is_packed, GRACE), direct, False)
        _vary(result, name, node, direct, is_packed)
    return result


def _compare(result: Result, name: str, taken: Sequence[Dump], disk: Disk, is_staged: bool) -> None:
    """Add what comes of the jobs if they are paced, and if not."""
    both = {pace: outcome(taken, disk, files, is_staged) for pace, files in (("unpaced", 0), ("paced", writers(disk)))}
    for pace, found in both.items():
        result.measures[f"{name}_{pace}_safe"] = _share(found, taken)
        result.measures[f"{name}_{pace}_mean"] = Measure(found.mean, "s", 1)
        result.measures[f"{name}_{pace}_last"] = Measure(found.last, "s", 1)
        result.measures[f"{name}_{pace}_vain"] = Measure(found.vain / 1e12, "TB", 1)
    lost = both["unpaced"].safe - both["paced"].safe
    result.measures[f"{name}_safe_only_unpaced"] = Measure(100 * len(lost) / len(taken), "%", 1)


def _share(found: Outcome, taken: Sequence[Dump]) -> Measure:
    return Measure(100 * len(found.safe) / len(taken), "%", 1)


def _vary(result: Result, name: str, node: Node, disk: Disk, is_packed: bool) -> None:
    """Add the share that is safe for other grace times, and for other numbers of writers."""
    for grace, files in (*((grace, writers(disk)) for grace in GRACES), *((GRACE, files) for files in WRITERS)):
        taken = dumps(memories(True), node, is_packed, grace)
        for pace, paced in (("unpaced", 0), (f"paced_by_{files}", files)):
            result.measures[f"{name}_{grace:.0f}_s_{pace}_safe"] = _share(outcome(taken, disk, paced, False), taken)
