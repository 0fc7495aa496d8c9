"""A supervised container ends with whoever answers for it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from oci_criu_shim import process
from oci_criu_shim.container import Container
from oci_criu_shim.signals import Signals
from oci_criu_shim.stdio import Stdio
from oci_criu_shim.supervise import Supervisor


@pytest.mark.parametrize("ends", [True, False])
def test_the_owner_ends(tmp_path: Path, ends: bool) -> None:
    """Supervised by a child, since it takes over signals and reaps whatever ends."""
    container = Container(str(tmp_path), "one")
    container.reserve()
    owner = subprocess.Popen(["sleep", "30"])

    def supervise() -> int:
        main = process.spawn(["/bin/sh", "-c", "sleep 1; exit 7"], os.environ, {})
        container.save({"init": process.identity(main)})
        pidfd, stdio = os.pidfd_open(owner.pid), Stdio()
        stdio.started()
        supervisor = Supervisor(container, main, "", stdio, Signals(), None, lambda _: 0, pidfd)
        if ends:
            os.kill(owner.pid, signal.SIGKILL)
        return supervisor.run()

    try:
        assert process.exit_status(process.wait(process.fork(supervise))) == (137 if ends else 7)
    finally:
        owner.kill()
        owner.wait()
