"""One run of the virtual machine: it boots, runs one command, and is gone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.harness.cluster import layer
from tests.harness.cluster.bundle import BUNDLE
from tests.harness.cluster.process import File, spawn
from tests.harness.cluster.rootfs import CONTAINED, NODE, Progress, Recipe, ensure, kept
from tests.harness.cluster.settings import DATA, REPOSITORY
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

SCRATCH = "machine."
HOST = Path(__file__).with_name("host.sh")
COMMAND = "exec env PYTHONPATH=/src PYTHONDONTWRITEBYTECODE=1 {settings} {command}"
# here.py, waiting.py and suite.py of the tests
SETTINGS = f"OCI_CRIU_SHIM_MACHINE=1 OCI_CRIU_SHIM_PATIENCE=10 {VARIABLE}={SUITE.name}"


def run(command: Sequence[str], progress: Progress, output: File = None) -> int:
    """Run a command as the machine's root, in this checkout; its status. What it and the kernel say goes to `output`.

    Clusters can be started in it as on any machine. Nothing outlasts it but what it said. Raise ClusterError.
    """
    roots = [ensure(recipe, progress) for recipe in (MACHINE, NODE, BUNDLE)]
    DATA.mkdir(parents=True, exist_ok=True)
    _sweep()
    with ExitStack() as stack:
        for root in roots:
            stack.enter_context(kept(root))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}.", dir=DATA)))
        installed = layer.build(roots[1], scratch, REPOSITORY, progress)
        words = COMMAND.format(settings=SETTINGS, command=shlex.join(command))
        argv = [*CONTAINED, "/bin/sh", str(HOST), *map(str, (*roots, installed, REPOSITORY)), words]
        with spawn(argv, stdout=output, stderr=subprocess.STDOUT if output else None) as machine:
            try:
                return machine.wait()
            except BaseException:
                machine.kill()
                raise


def _sweep() -> None:
    """Remove what those left that were killed."""
    for left in DATA.glob(f"{SCRATCH}*.*"):
        if not Path("/proc", left.name.split(".")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
