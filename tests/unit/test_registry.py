"""Who keeps a container, and what is said of it before and after the backend knows it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from oci_criu_shim.container import registry
from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.log import Log

if TYPE_CHECKING:
    from oci_criu_shim.container.record import Record

ENDED = [os.getpid(), 1]  # another process of that number


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container(str(tmp_path), "one")
    made.reserve()
    return made


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return Backend("crun", str(tmp_path), {}, Log())


def test_unknown(container: Container) -> None:
    other = Container(container.root, "other")
    with pytest.raises(ShimError, match="'other' does not exist"):
        registry.backend_of(other, {}, Log())


def test_a_node_whose_slurmd_has_not_loaded_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its prolog has made nothing: neither the runtime nor crun could make the job's directory."""
    monkeypatch.setattr("oci_criu_shim.slurm.rundir.RUN_DIRECTORY", str(tmp_path))
    with pytest.raises(
        ShimError, match=f"slurmd on {os.uname().nodename} had not loaded the plugin when job 4 "
    ) as caught:
        registry.require_free(Container(f"{tmp_path}/4", "one"))
    assert "`scontrol reconfigure`" in caught.value.hint
    for root in ("root", "4/inside"):
        registry.require_free(Container(f"{tmp_path}/{root}", "one"))
    (tmp_path / "4").mkdir()
    registry.require_free(Container(f"{tmp_path}/4", "one"))


def test_the_backend_that_created_it(container: Container) -> None:
    container.update({"backend": "/usr/sbin/other", "dialect": "crun"})
    found = registry.backend_of(container, {"backend": "crun"}, Log())
    assert (found.name, found.dialect) == ("other", "crun")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"supervisor": process.identity(os.getpid())}, "creating"),
        ({"supervisor": ENDED}, "stopped"),
        ({"supervisor": process.identity(os.getpid()), "held": True}, "created"),
        ({"supervisor": ENDED, "held": True}, "stopped"),
    ],
)
def test_states(container: Container, backend: Backend, fields: Record, status: str) -> None:
    container.update({**fields, "bundle": "/b", "config": {"annotations": {"a": "b"}}})
    found = registry.state(container, backend)
    assert (found["status"], found["pid"]) == (status, os.getpid() if status == "created" else 0)
    assert (found["bundle"], found["annotations"]) == ("/b", {"a": "b"})


def test_one_that_goes_while_all_are_listed(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend has forgotten it before its supervisor has."""

    def state(*_: object) -> None:
        going.start()
        raise ShimError("no status file")

    going = threading.Timer(0.1, container.release)
    monkeypatch.setattr(registry, "state", state)
    assert registry.states(container.root, {}, Log()) == []


def test_a_container_of_the_backends_alone(tmp_path: Path) -> None:
    (tmp_path / ".:opt:bin:other/one").mkdir(parents=True)
    (tmp_path / ".lock").touch()
    container = Container(str(tmp_path), "one")
    assert registry.backend_of(container, {}, Log()).program == "/opt/bin/other"
    assert registry.names(str(tmp_path)) == ["one"]
