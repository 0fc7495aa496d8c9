"""Container engines on a node, as root, with this runtime: what podman's and Docker's tests share."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.bundle import BUNDLE, quiet
from tests.harness.cluster.process import run
from tests.harness.cluster.rootfs import Recipe, ensure
from tests.harness.cluster.waiting import patient

SHIM = "/usr/bin/oci-criu-shim"
STORAGE = ("--root=/run/podman/root", "--runroot=/run/podman/run", "--storage-driver=vfs", "--events-backend=none")
PODMAN = ("podman", *STORAGE, "--cgroup-manager=cgroupfs")
COUNT = ("bash", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done")
ECHO = ("bash", "-c", 'while read -r word; do echo "<$word on $(tty)>"; done')
# By itself, so that not all of the nodes' root is built anew with it.
INSPECTOR = Recipe(name="checkpointctl", variant="extract", packages=("checkpointctl",))
Done = subprocess.CompletedProcess[str]


def export_root(cluster: Cluster) -> str:
    """The small Debian of the bundles as a tar archive; its path on the nodes."""
    root = ensure(BUNDLE, quiet)
    run(["tar", "-C", str(root), "-cf", str(cluster.shared / "image.tar"), "."])
    return "/shared/image.tar"


def shown(cluster: Cluster, archive: str, node: str = "n1") -> list[str]:
    """The row that `checkpointctl show` has for an archive: container, image, id, runtime, created, engine, size."""
    # Debian's versions rule the table all around, or below its head alone.
    *_, ruler, row = _checkpointctl(cluster, node, "show", archive).rstrip("\n+-").splitlines()
    starts = [dashes.start() for dashes in re.finditer("-+", ruler)]
    return [row[start:end].strip(" |") for start, end in pairwise([*starts, None])]


def inspected(cluster: Cluster, archive: str, node: str = "n1") -> dict[str, Any]:
    """What `checkpointctl inspect` says of all that is in an archive."""
    [found] = json.loads(_checkpointctl(cluster, node, "inspect", "--all", "--format=json", archive))
    assert isinstance(found, dict)
    return found


def _checkpointctl(cluster: Cluster, node: str, *words: str) -> str:
    """The output of Debian's checkpointctl."""
    program = cluster.shared / "checkpointctl"
    if not program.exists():
        shutil.copy(ensure(INSPECTOR, quiet) / "usr/bin/checkpointctl", program)
    return cluster.exec(node, [f"/shared/{program.name}", *words], "root").stdout


@dataclass
class Engine:
    """An engine's command on a node; `words` come first on each of its command lines."""

    cluster: Cluster
    words: tuple[str, ...]
    node: str = "n1"

    def __call__(self, *words: str, check: bool = True) -> Done:
        argv = ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", *self.words, *words]
        return self.cluster.exec(self.node, argv, "root", check)

    def counted(self, name: str) -> list[int]:
        """The numbers that a container with COUNT has printed."""
        return [int(line) for line in self("logs", name).stdout.split()]

    def wait_counts(self, name: str, beyond: int) -> list[int]:
        """Wait until it has counted further than this; what it has printed."""
        wait_for(lambda: (self.counted(name) or [-1])[-1] > beyond, 20, f"{name} to count beyond {beyond}")
        return self.counted(name)

    @contextmanager
    def terminal(self, *words: str) -> Iterator[Terminal]:
        """A command of the engine's on a terminal of its own."""
        ours, theirs = pty.openpty()
        argv = self.cluster.argv(self.node, ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", *self.words, *words], "root")
        with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
            os.close(theirs)
            try:
                yield Terminal(ours)
            finally:
                process.kill()
                os.close(ours)


@dataclass
class Terminal:
    """The side of a terminal where somebody types and reads."""

    descriptor: int
    seen: str = ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until this is seen."""
        deadline = time.monotonic() + patient(20)
        while text not in self.seen:
            ready = select.select([self.descriptor], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"{text!r} is not in {self.seen!r}"
            self.seen += os.read(self.descriptor, 4096).decode(errors="replace")


def leftovers(cluster: Cluster, node: str = "n1") -> str:
    """Control groups, state and processes of containers that are gone."""
    script = (
        "find /sys/fs/cgroup/pids -mindepth 2 -type d -name 'libpod-*'; ls /run/oci-criu-shim/root;"
        " ls /run/oci-criu-shim/root/.crun; pgrep -a conmon"
    )
    return cluster.exec(node, ["sh", "-c", script], "root", check=False).stdout


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
