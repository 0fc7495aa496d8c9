"""Reports what a benchmark has found: a table for people, build/bench/<name>.json for programs."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.cluster import Cluster
from tests.harness.cluster.settings import REPOSITORY

RESULTS = REPOSITORY / "build/bench"
QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Measure:
    """One figure; without a goal it is for information."""

    value: float
    unit: str
    runs: int
    goal: float | None = None
    better: str = "lower"

    def verdict(self) -> str:
        if self.goal is None:
            return ""
        met = self.value <= self.goal if self.better == "lower" else self.value >= self.goal
        return "met" if met else "MISSED"


@dataclass
class Result:
    """The measures of one benchmark, and what they were taken with."""

    versions: dict[str, str]
    measures: dict[str, Measure] = field(default_factory=dict)

    def median(self, name: str, seconds: Sequence[float]) -> float:
        """Add the median of `seconds`, and return it."""
        value = statistics.median(seconds)
        self.measures[name] = Measure(value, "s", len(seconds))
        return value

    def write(self, name: str) -> Path:
        """Write <name>.json so that a reader sees all of it or nothing; return its path."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{name}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({**asdict(self), "machine": machine()}, indent=1) + "\n")
        partial.rename(path)
        return path

    def table(self) -> str:
        heads = ("measure", "value", "unit", "goal", "")
        rows = [(n, f"{m.value:.3f}", m.unit, _number(m.goal), m.verdict()) for n, m in self.measures.items()]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in (heads, *rows))
        return "\n".join(line.rstrip() for line in lines)

    def missed(self) -> list[str]:
        return [name for name, measure in self.measures.items() if measure.verdict() == "MISSED"]


class Progress:
    """Says now and then how far a benchmark is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last = time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.last >= QUIET_SECONDS:
            self.last = time.monotonic()
            print(f"{self.name}: {text}", flush=True)


def machine() -> dict[str, Any]:
    """This machine; memory in MiB, load of the last minute."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    kernel = os.uname()
    return {
        "cpus": os.cpu_count(),
        "model": model[1] if model else kernel.machine,
        "memory": memory,
        "kernel": kernel.release,
        "load": os.getloadavg()[0],
    }


def versions(cluster: Cluster) -> dict[str, str]:
    """What is installed on the nodes."""
    programs = {
        "slurm": ("scontrol", "--version"),
        "crun": ("crun", "--version"),
        "criu": ("criu", "--version"),
        "python": ("python3", "--version"),
        "oci-criu-shim": ("oci-criu-shim", "--version"),
    }
    found = ((name, re.search(r"\d+(\.\d+)+\S*", _said(cluster, argv))) for name, argv in programs.items())
    return {name: match[0] if match else "?" for name, match in found}


def _said(cluster: Cluster, argv: Sequence[str]) -> str:
    return cluster.exec("n1", argv, "root").stdout


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
