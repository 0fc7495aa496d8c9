"""One run of the virtual machine: it boots, runs one command, and is gone."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.harness.cluster import layer
from tests.harness.cluster.bundle import BUNDLE
from tests.harness.cluster.cache import kept
from tests.harness.cluster.process import File, spawn
from tests.harness.cluster.rootfs import CONTAINED, NODE, Progress, Recipe, ensure
from tests.harness.cluster.settings import REPOSITORY
from tests.harness.cluster.suite import SUITE, VARIABLE

MACHINE = Recipe(
    name="machine",
    variant="minbase",
    packages=(
        *("qemu-system-x86", "virtiofsd", "linux-image-cloud-amd64", "kmod"),
        *("iproute2", "procps", "util-linux", "libcap2-bin", "nftables"),
        *("python3", "python3-pytest", "python3-pytest-timeout", "python3-pyroute2", "python3-jsonschema"),
        *("nfs-kernel-server", "nfs-common", "e2fsprogs", "apparmor"),
    ),
    unwanted=(
        *Recipe.unwanted,
        "/etc/kernel/postinst.d/initramfs-tools",  # the kernel has all that it needs to mount its root
    ),
)
"""What runs the machine, and what runs in it."""

HOST = Path(__file__).with_name("host.sh")
COMMAND = "exec env PYTHONPATH=/src PYTHONDONTWRITEBYTECODE=1 {settings} {command}"
# here.py, waiting.py and suite.py of the tests
SETTINGS = f"OCI_CRIU_SHIM_MACHINE=1 OCI_CRIU_SHIM_PATIENCE=10 {VARIABLE}={SUITE.name}"


def run(command: Sequence[str], progress: Progress, output: File = None) -> int:
    """Run a command as the machine's root, in this checkout; its status. What it and the kernel say goes to `output`.

    Clusters can be started in it as on any machine. Nothing outlasts it but what it said. Raise ClusterError.
    """
    roots = [ensure(recipe, progress) for recipe in (MACHINE, NODE, BUNDLE)]
    roots.append(layer.ensure(roots[1], REPOSITORY, progress))
    with ExitStack() as stack:
        for root in roots:
            stack.enter_context(kept(root))
        words = COMMAND.format(settings=SETTINGS, command=shlex.join(command))
        argv = [*CONTAINED, "/bin/sh", str(HOST), *map(str, (*roots, REPOSITORY)), words]
        with spawn(argv, stdout=output, stderr=subprocess.STDOUT if output else None) as machine:
            try:
                return machine.wait()
            except BaseException:
                machine.kill()
                raise
