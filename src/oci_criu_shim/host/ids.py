"""The ids of a user namespace, inside and outside (user_namespaces(7))."""

from __future__ import annotations

import os

IdMap = list[list[int]]  # rows of /proc/PID/uid_map: first id inside, first id outside, how many


def read(pid: int, kind: str) -> IdMap:
    """Return the map of the process's user namespace, of kind "uid" or "gid", as seen from ours."""
    with open(f"/proc/{pid}/{kind}_map", encoding="ascii") as stream:
        return [[int(number) for number in line.split()] for line in stream]


def configured(mappings: list[dict[str, int]]) -> IdMap:
    """Return the map that config.json's uidMappings or gidMappings ask for."""
    return [[row["containerID"], row["hostID"], row["size"]] for row in mappings]


def outside(mapping: IdMap, number: int) -> int | None:
    """Return the id outside that is `number` inside; None if there is none."""
    return next((outer + number - inner for inner, outer, count in mapping if 0 <= number - inner < count), None)


def inside(mapping: IdMap, number: int) -> int | None:
    """Return the id inside that is `number` outside; None if there is none."""
    return outside([[outer, inner, count] for inner, outer, count in mapping], number)


def ours(uids: IdMap, gids: IdMap) -> tuple[int, int]:
    """Return the numbers inside, user's and group's, of whoever we are outside; 0 if we are root or have none."""
    if os.geteuid() == 0:
        return 0, 0
    return inside(uids, os.geteuid()) or 0, inside(gids, os.getegid()) or 0
