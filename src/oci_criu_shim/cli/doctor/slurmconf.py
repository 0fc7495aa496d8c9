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
READ_IT = f"slurm.conf says so already, slurmctld does not: {RECONFIGURE}"


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
        found = self.partitions().get(partition, {}) if partition else self._general()
        if allows(found.get(key.lower(), "")):
            return READ_IT
        place = f"PartitionName={partition} … " if partition else ""
        return f"slurm.conf: {place}{key}={value}, then {RECONFIGURE}"

    def partitions(self) -> dict[str, dict[str, str]]:
        """Return {partition: {name in lower case: value}} as slurm.conf has them."""
        default: dict[str, str] = {}
        found: dict[str, dict[str, str]] = {}
        for line in self._lines():
            name = line.get("partitionname", "")
            if name.upper() == "DEFAULT":
                default |= line
            elif name:
                found[name] = default | found.get(name, {}) | line
        return found

    def _general(self) -> dict[str, str]:
        """Return {name in lower case: value} of what slurm.conf has that is neither of a partition nor of a node."""
        general = [line for line in self._lines() if not {"partitionname", "nodename"} & set(line)]
        return {name: value for line in general for name, value in line.items()}

    def _lines(self) -> list[dict[str, str]]:
        try:
            return list(lines.settings(os.path.join(self.directory(), "slurm.conf")))
        except ShimError:
            return []  # slurmctld could read it
