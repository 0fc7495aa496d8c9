"""Judges by its ledger and its output whether a job went on unchanged, without a look at the cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.harness.cluster.waiting import patient

LINE = re.compile(r"tick (\d+) pid (\d+) mono (\d+\.\d+) (\S+)")
SLACK = patient(15)
"""Seconds that a tick may take longer than asked: nodes' clocks differ by thousands."""


@dataclass(frozen=True)
class Facts:
    """What is known of a job besides what it wrote."""

    ticks: int
    tick: float
    submitted: str
    found: str
    state: str
    restarts: int
    preemptions: int
    nodes: tuple[str, ...]
    """Those on which it ran, in order."""


def failures(ledger: str, output: str, facts: Facts) -> list[str]:
    """Return everything that is wrong; nothing if the job never noticed that it was moved."""
    said = [int(number) for number in re.findall(r"^tick (\d+)$", output, re.MULTILINE)]
    return [
        *job_failures(facts),
        *number_failures("output", said, facts.ticks),
        *ledger_failures(ledger, output, facts.ticks, facts.tick),
    ]


def ledger_failures(ledger: str, output: str, ticks: int, tick: float) -> list[str]:
    """Return everything that is wrong with a ledger. The output, in which ticks may be doubled, says its end."""
    lines = ledger.splitlines()
    entries = [found.groups() for line in lines if (found := LINE.fullmatch(line))]
    return [
        *(f"ledger: no such line is written: {line!r}" for line in lines if not LINE.fullmatch(line)),
        *number_failures("ledger", [int(entry[0]) for entry in entries], ticks),
        *pid_failures([entry[1] for entry in entries]),
        *clock_failures([float(entry[2]) for entry in entries], tick + SLACK),
        *checksum_failures([entry[3] for entry in entries], output),
    ]


def job_failures(facts: Facts) -> list[str]:
    found = []
    if facts.found != facts.submitted:
        found.append(f"job: its number was {facts.submitted} and is {facts.found}")
    if facts.state != "COMPLETED":
        found.append(f"job: {facts.state}, not COMPLETED")
    if facts.restarts != facts.preemptions:
        found.append(f"job: restarted {facts.restarts} times for {facts.preemptions} preemptions")
    if len(facts.nodes) != facts.preemptions + 1:
        found.append(f"job: ran on {' '.join(facts.nodes)} for {facts.preemptions} preemptions")
    found += [f"job: on {one} twice in a row" for one, two in pairwise(facts.nodes) if one == two]
    return found


def number_failures(where: str, numbers: Sequence[int], ticks: int) -> list[str]:
    """Return which numbers of 1 to `ticks` are lost, doubled or misplaced."""
    expected = range(1, ticks + 1)
    if list(numbers) == list(expected):
        return []
    lost = sorted(set(expected) - set(numbers))
    doubled = sorted({number for number in numbers if numbers.count(number) > 1})
    return [f"{where}: not 1 to {ticks} in order: lost {lost}, doubled {doubled}, {len(numbers)} in all"]


def pid_failures(pids: Sequence[str]) -> list[str]:
    seen = sorted(set(pids))
    return [] if len(seen) == 1 else [f"ledger: process numbers {', '.join(seen) or 'missing'}"]


def clock_failures(times: Sequence[float], limit: float) -> list[str]:
    steps = ((number, after - before) for number, (before, after) in enumerate(pairwise(times), start=2))
    return [f"ledger: the clock went {step:.3f} s to line {number}" for number, step in steps if not 0 <= step < limit]


def checksum_failures(words: Sequence[str], output: str) -> list[str]:
    found = [f"ledger: {word} in line {number}" for number, word in enumerate(words, start=1) if word != "sum-ok"]
    ends = re.findall(r"^end (\S+)$", output, re.MULTILINE)
    return found if ends == ["sum-ok"] else [*found, f"output: ends {ends} instead of ['sum-ok']"]
