"""How a container that exists is signalled and deleted."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from oci_criu_shim.container import acts, registry
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from tests.unit.test_registry import ENDED, backend, container

__all__ = ["backend", "container"]


@pytest.fixture
def held(container: Container) -> Iterator[subprocess.Popen[bytes]]:
    """The supervisor of one that is held."""
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        container.update({"supervisor": process.identity(supervisor.pid), "held": True})
        yield supervisor
        supervisor.kill()


@pytest.mark.parametrize("number", [0, signal.SIGCONT, signal.SIGCHLD, signal.SIGSTOP, signal.SIGTSTP])
def test_what_does_not_end_one_that_is_held(
    container: Container, backend: Backend, held: subprocess.Popen[bytes], number: int
) -> None:
    assert acts.signal_itself(container, backend, number, to_all=False)
    assert registry.state(container, backend)["status"] == "created"
    assert str(registry.not_running(container)).endswith("is not running yet")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGRTMIN])
def test_what_ends_one_that_is_held(
    container: Container, backend: Backend, held: subprocess.Popen[bytes], number: int
) -> None:
    assert acts.signal_itself(container, backend, number, to_all=True)
    assert held.wait() == -signal.SIGKILL
    assert registry.state(container, backend)["status"] == "stopped"
    with pytest.raises(ShimError, match=r"is not running$"):
        acts.signal_itself(container, backend, number, to_all=True)


def test_delete_spares_a_supervised_one(container: Container, backend: Backend) -> None:
    container.update({"supervisor": process.identity(os.getpid())})
    with pytest.raises(ShimError, match="not stopped"):
        acts.delete(container, backend, force=False)
    assert container.exists()


def test_delete(container: Container, backend: Backend) -> None:
    container.update({"supervisor": ENDED})
    assert acts.delete(container, backend, force=False) == 0
    assert not container.exists()
