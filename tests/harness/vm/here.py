"""The virtual machine itself as a node, if no cluster is needed: starting one takes twice as long."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from tests.harness.cluster import Cluster
from tests.harness.cluster.cluster import become
from tests.node.support import Site

INSIDE = "OCI_CRIU_SHIM_MACHINE" in os.environ
"""Whether this is the virtual machine."""


class Here(Cluster):
    """Not started, and with one node, whatever its name: what runs there runs here."""

    @property
    def shared(self) -> Path:
        return Path("/shared")

    @property
    def home(self) -> Path:
        return Path("/home")

    def argv(self, node: str, argv: Sequence[str], user: str = "alice", cwd: str | None = None) -> list[str]:
        return [*become(user, cwd), *argv]


@functools.cache
def site() -> Site:
    """Return the one site of all tests, whose directories have fixtures of their own."""
    made = Site(Here("here"))
    made.prepare("alice")
    return made
