"""Read and convert the monotonic and boot clocks of time namespaces (time_namespaces(7)), in nanoseconds."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
SECOND = 1_000_000_000


def offsets(pid: int | str = "self") -> dict[str, int]:
    """Return the offsets of the clocks in `pid`'s time namespace from those of the machine."""
    found = {}
    with open(f"/proc/{pid}/timens_offsets", encoding="ascii") as stream:
        for line in stream:
            name, seconds, nanoseconds = line.split()
            found[name] = int(seconds) * SECOND + int(nanoseconds)
    return found


def now(theirs: Mapping[str, int], ours: Mapping[str, int]) -> dict[str, int]:
    """Return the clocks of a namespace with the offsets `theirs`, called in one with `ours`."""
    return {n: time.clock_gettime_ns(c) - ours[n] + theirs[n] for n, c in NAMES.items()}


def going_on(values: Mapping[str, int], ours: Mapping[str, int]) -> dict[str, int]:
    """Return the offsets with which clocks show `values` now, called in a namespace with the offsets `ours`."""
    return {n: values[n] - (time.clock_gettime_ns(c) - ours[n]) for n, c in NAMES.items()}


def lines(wanted: Mapping[str, int]) -> str:
    """Return offsets in the form that /proc/self/timens_offsets takes."""
    parts = [f"{name} {value // SECOND} {value % SECOND}" for name, value in wanted.items()]
    return "\n".join(parts) + "\n"
