"""Who has a container's id, and what is said of it before and after the backend knows it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_criu_shim.container.backends import Backend
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.log import Log
from oci_criu_shim.supervisor import lifecycle

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


def test_the_backend_that_created_it(container: Container) -> None:
    container.update(backend="/usr/sbin/other", dialect="crun")
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
def test_states(container: Container, backend: Backend, fields: dict[str, object], status: str) -> None:
    container.update(**fields, bundle="/b", config={"annotations": {"a": "b"}})
    found = registry.state(container, backend)
    assert (found["status"], found["pid"]) == (status, os.getpid() if status == "created" else 0)
    assert (found["bundle"], found["annotations"]) == ("/b", {"a": "b"})


@pytest.fixture
def held(container: Container) -> Iterator[subprocess.Popen[bytes]]:
    """The supervisor of one that is held."""
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        container.update(supervisor=process.identity(supervisor.pid), held=True)
        yield supervisor
        supervisor.kill()


@pytest.mark.parametrize("number", [0, signal.SIGCONT, signal.SIGCHLD, signal.SIGSTOP, signal.SIGTSTP])
def test_what_does_not_end_one_that_is_held(
    container: Container, backend: Backend, held: subprocess.Popen[bytes], number: int
) -> None:
    assert lifecycle.signal_itself(container, backend, number, to_all=False)
    assert registry.state(container, backend)["status"] == "created"
    assert str(registry.not_running(container)).endswith("is not running yet")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGRTMIN])
def test_what_ends_one_that_is_held(
    container: Container, backend: Backend, held: subprocess.Popen[bytes], number: int
) -> None:
    assert lifecycle.signal_itself(container, backend, number, to_all=True)
    assert held.wait() == -signal.SIGKILL
    assert registry.state(container, backend)["status"] == "stopped"
    with pytest.raises(ShimError, match=r"is not running$"):
        lifecycle.signal_itself(container, backend, number, to_all=True)


@pytest.mark.parametrize(("user", "manager", "own"), [(0, "cgroupfs", False), (7, "cgroupfs", True), (7, "", False)])
def test_a_group_of_its_own(
    container: Container, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, manager: str, own: bool
) -> None:
    """Root's have one in any case, and it comes back."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    given = {"backend": "crun", **({"cgroup-manager": manager} if manager else {})}
    plan = Plan(container, str(bundle_path), given, [], None, Log())
    assert plan.record()["own_group"] == own


@pytest.mark.parametrize("given", [{"backend": "nonesuch"}, {"backend": "/bin/true", "cgroup-manager": "nonesuch"}])
def test_what_no_backend_can_do_takes_no_id(tmp_path: Path, bundle_path: Path, given: dict[str, str]) -> None:
    container = Container(str(tmp_path / "run"), "one")
    plan = Plan(container, str(bundle_path), given, [], None, Log())
    for make in (lifecycle.create, lifecycle.run_detached):
        with pytest.raises(ShimError, match="nonesuch"):
            make(plan)
        assert not container.exists()


def test_what_a_caller_hands_on() -> None:
    reader, writer = os.pipe()
    try:
        found = lifecycle._preserved(["--no-pivot", f"--preserve-fds={writer - 2}"])
        assert f"pipe:[{os.fstat(reader).st_ino}]" in found
        assert lifecycle._preserved(["--no-pivot"]) == lifecycle._preserved(["--preserve-fds=x"]) == []
    finally:
        os.close(reader)
        os.close(writer)


def test_one_that_goes_while_all_are_listed(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend has forgotten it before its supervisor has."""

    def state(*_: object) -> None:
        going.start()
        raise ShimError("no status file")

    going = threading.Timer(0.1, container.release)
    monkeypatch.setattr(lifecycle, "state", state)
    assert registry.states(container.root, {}, Log()) == []


def test_a_container_of_the_backends_alone(tmp_path: Path) -> None:
    (tmp_path / ".:opt:bin:other/one").mkdir(parents=True)
    (tmp_path / ".lock").touch()
    container = Container(str(tmp_path), "one")
    assert registry.backend_of(container, {}, Log()).program == "/opt/bin/other"
    assert registry.names(str(tmp_path)) == ["one"]


def test_delete_spares_a_supervised_one(container: Container, backend: Backend) -> None:
    container.update(supervisor=process.identity(os.getpid()))
    with pytest.raises(ShimError, match="not stopped"):
        lifecycle.delete(container, backend, force=False)
    assert container.exists()


def test_delete(container: Container, backend: Backend) -> None:
    container.update(supervisor=ENDED)
    assert lifecycle.delete(container, backend, force=False) == 0
    assert not container.exists()
