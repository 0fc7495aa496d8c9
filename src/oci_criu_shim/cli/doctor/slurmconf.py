"""Slurm's configuration on this node, as slurmctld has it and as slurm.conf has it."""

from __future__ import annotations

import os

from oci_criu_shim.cli.doctor import lines
from oci_criu_shim.cli.doctor.verdicts import Skipped
from oci_criu_shim.errors import ShimError
from oci_criu_shim.slurm import controller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RECONFIGURE = "scontrol reconfigure"


class SlurmConf:
    """Slurm's configuration, asked for once, by answer()."""

    def __init__(self) -> None:
        self.said: dict[str, str] | None = None

    def directory(self) -> str:
        """Return the directory of slurm.conf; raise Skipped if there is none."""
        found = controller.conf_directory()
        if found is None:
            raise Skipped("no slurm.conf on this machine")
        return found

    def answer(self) -> str:
        """Check that slurmctld answers."""
        where = self.directory()
        self.said = controller.configuration()
        version = self.said.get("SLURM_VERSION", "unknown version")
        return f"{version}, configuration in {where}; asked by {controller.asked_by()}"

    def values(self) -> dict[str, str]:
        """Return slurm.conf as slurmctld has it; raise Skipped if it did not answer before."""
        self.directory()
        if self.said is None:
            raise Skipped("slurmctld did not answer")
        return self.said

    def hint(self, key: str, value: str, allows: Callable[[str], bool], partition: str = "") -> str:
        """Return how to make a setting right: slurm.conf may have it already."""
        if allows(self._written(partition).get(key.lower(), "")):
            return f"slurm.conf says so already, slurmctld does not: {RECONFIGURE}"
        place = f"PartitionName={partition} … " if partition else ""
        return f"slurm.conf: {place}{key}={value}, then {RECONFIGURE}"

    def _written(self, partition: str) -> dict[str, str]:
        """Return {name in lower case: value} of what slurm.conf has for a partition, or in general."""
        found: dict[str, str] = {}
        try:
            for line in lines.settings(os.path.join(self.directory(), "slurm.conf")):
                if line.get("partitionname", "") == partition and "nodename" not in line:
                    found |= line
        except ShimError:
            pass  # slurmctld could read it
        return found
