"""What the keeper tells the first program of a node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What the keeper decided; paths are the host's, except the keys of binds, which are the node's."""

    hostname: str
    lower: tuple[str, ...]
    """Overlay layers, the topmost first."""
    directory: str
    """Holds upper, work and merged of the overlay."""
    binds: dict[str, str]
    files: dict[str, str]
    """Texts of small files by their path on the node."""
    hierarchies: tuple[tuple[str, ...], ...]
    """Controllers of each v1 hierarchy; an empty tuple is the v2 one."""
    role: str
