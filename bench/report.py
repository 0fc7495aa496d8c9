"""Reports what a benchmark has found: a table for people, build/bench/<name>.json for programs and bench/page.py."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.harness.cluster import Cluster, ClusterError
from tests.harness.cluster.process import run
from tests.harness.cluster.settings import DATA, REPOSITORY

RESULTS = REPOSITORY / "build/bench"
QUIET_SECONDS = 2.0
DIGITS = 3
"""Significant ones of what people read."""
HEADS = ("measure", "median", "least to most", "unit", "runs", "goal", "")


@dataclass(frozen=True)
class Measure:
    """One figure, the median of its samples; without a goal it is for information."""

    value: float
    unit: str
    runs: int
    goal: float | None = None
    better: str = "lower"
    samples: Sequence[float] = ()
    """In the order of the runs, rounded; results of older versions have none."""
    group: str = ""
    """A heading that it stands below with others."""

    @classmethod
    def of(
        cls,
        samples: Sequence[float],
        unit: str = "s",
        goal: float | None = None,
        better: str = "lower",
        group: str = "",
    ) -> Self:
        """Return the measure that has these samples."""
        rounded = tuple(float(f"{sample:.7g}") for sample in samples)
        return cls(statistics.median(rounded), unit, len(rounded), goal, better, rounded, group)

    @property
    def least(self) -> float:
        return min(self.samples, default=self.value)

    @property
    def most(self) -> float:
        return max(self.samples, default=self.value)

    def verdict(self) -> str:
        if self.goal is None:
            return ""
        met = self.value <= self.goal if self.better == "lower" else self.value >= self.goal
        return "met" if met else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """Return what HEADS has after the name."""
        spread = f"{number(self.least)} to {number(self.most)}" if self.samples[1:] else ""
        goal = "" if self.goal is None else f"{'≤' if self.better == 'lower' else '≥'} {number(self.goal)}"
        return number(self.value), spread, self.unit, str(self.runs), goal, self.verdict()


@dataclass
class Result:
    """The measures of one benchmark, and what they were taken with."""

    versions: dict[str, str]
    measures: dict[str, Measure] = field(default_factory=dict)
    about: str = ""
    """What is measured, and how: paragraphs."""
    machine: dict[str, Any] = field(default_factory=dict)
    at: str = ""
    """When it was written, in UTC."""

    def write(self, name: str, directory: Path = RESULTS) -> Path:
        """Write <name>.json so that a reader sees all of it or nothing; return its path."""
        self.machine = machine()
        self.at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        directory.mkdir(parents=True, exist_ok=True)
        return write_whole(directory / f"{name}.json", json.dumps(asdict(self), indent=1) + "\n")

    def table(self) -> str:
        rows = [(name, *measure.cells()) for name, measure in self.measures.items()]
        widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
        lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in (HEADS, *rows))
        return "\n".join(line.rstrip() for line in lines)

    def missed(self) -> list[str]:
        return [name for name, measure in self.measures.items() if measure.verdict() == "MISSED"]


def load(path: Path) -> Result:
    """Return what write() has written, now or in an older version."""
    raw: dict[str, Any] = json.loads(path.read_text())
    return Result(**raw | {"measures": {name: Measure(**about) for name, about in raw["measures"].items()}})


def write_whole(path: Path, text: str) -> Path:
    """Write a file so that a reader sees all of it or nothing; return its path."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.rename(path)
    return path


def ratios(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratios of two measures run by run, since they were taken in turns."""
    return [one / other for one, other in zip(some, others, strict=True)]


def differences(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return by how much the first measure is above the second, run by run."""
    return [one - other for one, other in zip(some, others, strict=True)]


def number(value: float) -> str:
    """Return a number with DIGITS significant digits, or all that are before its point."""
    places = DIGITS - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(places, 0)}f}"


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
    """This machine; memory in MiB, load of the last minute, the file system that has the checkpoints."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    kernel = os.uname()
    return {
        "cpus": os.cpu_count(),
        "model": model[1] if model else kernel.machine,
        "memory": memory,
        "kernel": kernel.release,
        "file_system": _first(["findmnt", "--noheadings", "--output=FSTYPE", f"--target={DATA.parent}"]),
        "load": os.getloadavg()[0],
    }


def versions(cluster: Cluster) -> dict[str, str]:
    """What is installed on the nodes, and the commit of this checkout, `dirty` if files have changed since."""
    programs = {
        "slurm": ("scontrol", "--version"),
        "crun": ("crun", "--version"),
        "criu": ("criu", "--version"),
        "python": ("python3", "--version"),
        "oci-criu-shim": ("oci-criu-shim", "--version"),
    }
    found = ((name, re.search(r"\d+(\.\d+)+\S*", _said(cluster, argv))) for name, argv in programs.items())
    # The checkout may be another user's than root's.
    git = ["git", "-C", str(REPOSITORY), "-c", "safe.directory=*", "describe", "--always", "--dirty", "--exclude=*"]
    return {name: match[0] if match else "?" for name, match in found} | {"commit": _first(git)}


def _said(cluster: Cluster, argv: Sequence[str]) -> str:
    return cluster.exec("n1", argv, "root").stdout


def _first(argv: Sequence[str]) -> str:
    """Return the first word that a program says, "?" if it is missing or fails."""
    try:
        return run(argv).stdout.split()[0]
    except (ClusterError, FileNotFoundError, IndexError):
        return "?"
