"""Docker with this runtime: its verbs, and its experimental checkpoints."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests import NAME
from tests.engines.support import COUNT, ECHO, SHIM, Engine, export_root
from tests.harness.cluster import Cluster, wait_for
from tests.harness.cluster.suite import SUITE
from tests.harness.cluster.waiting import patient

HOST = "--host=unix:///run/docker/sock"
DAEMON = (
    *("dockerd", HOST, "--experimental", "--data-root=/run/docker/data", "--exec-root=/run/docker/exec"),
    *("--pidfile=/run/docker/pid", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"),
    f"--add-runtime=shim={SHIM}",
)


def restore(docker: Engine, name: str, label: str) -> None:
    """Docker 26.1 fails as long as containerd has not cleared away the same contents from the checkpoint's creation."""

    def started() -> bool:
        done = docker("start", f"--checkpoint={label}", name, check=False)
        assert done.returncode == 0 or "already exists" in done.stderr, done.stderr
        return done.returncode == 0

    wait_for(started, 60, "the restore")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Engine]:
    """dockerd on a node, ended with it."""
    with Cluster(f"{NAME}-engine-docker", nodes=1) as cluster, (cluster.shared / "dockerd.log").open("w") as log:
        cluster.exec("n1", ["mkdir", "-p", "/run/docker"], "root")
        argv = cluster.argv("n1", DAEMON, "root")
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
            engine = Engine(cluster, ("docker", HOST))
            try:
                wait_for(lambda: engine("version", check=False).returncode == 0, 30, "dockerd")
                engine("import", export_root(cluster), "small")
                yield engine
            finally:
                cluster.exec("n1", ["sh", "-c", 'kill "$(cat /run/docker/pid)"'], "root")
                process.wait(patient(30))


@pytest.fixture
def docker(daemon: Engine) -> Iterator[Engine]:
    """docker; no container is left after the test."""
    yield daemon
    for name in daemon("ps", "--all", "--quiet").stdout.split():
        daemon("rm", "--force", name)
    assert daemon("ps", "--all", "--quiet").stdout == ""


def start(docker: Engine, *words: str) -> None:
    docker("run", "--detach", "--runtime=shim", f"--network={SUITE.docker_network}", *words)


def status(docker: Engine, name: str) -> str:
    return docker("inspect", "--format={{.State.Status}}", name).stdout.strip()


def checkpoint(docker: Engine, name: str, label: str) -> None:
    """Checkpoint it, and wait for its end."""
    docker("checkpoint", "create", name, label)
    wait_for(lambda: status(docker, name) == "exited", 20, f"{name} to end")


def check_goes_on(docker: Engine, name: str, at_least: int) -> None:
    counted = docker.wait_counts(name, at_least)
    assert counted == list(range(len(counted)))


def check_verbs(docker: Engine, name: str) -> None:
    """All that can be done to a running container; it is stopped and removed by that."""
    assert docker("exec", name, "echo", "hello").stdout == "hello\n"
    assert "bash -c" in docker("top", name).stdout
    docker("pause", name)
    before = docker.counted(name)
    assert (status(docker, name), docker.counted(name)) == ("paused", before)
    docker("unpause", name)
    docker.wait_counts(name, before[-1])
    docker("stats", "--no-stream", name)
    docker("stop", "--time=1", name)
    assert status(docker, name) == "exited"
    docker("rm", name)


def test_without_checkpoints(docker: Engine) -> None:
    start(docker, "--name=plain", "small", *COUNT)
    check_goes_on(docker, "plain", 3)
    check_verbs(docker, "plain")
    words = ("run", "--rm", "--runtime=shim", "--network=none", "small", "sh", "-c", "exit 7")
    assert docker(*words, check=False).returncode == 7


def test_again_and_again(docker: Engine) -> None:
    start(docker, "--name=one", "small", *COUNT)
    docker.wait_counts("one", 3)
    for label in ("first", "second"):
        checkpoint(docker, "one", label)
        reached = docker.counted("one")[-1]
        assert label in docker("checkpoint", "ls", "one").stdout
        restore(docker, "one", label)
        check_goes_on(docker, "one", reached + 3)
    check_verbs(docker, "one")


def test_leave_running(docker: Engine) -> None:
    """What is restored is the moment of the checkpoint."""
    start(docker, "--name=one", "small", *COUNT)
    docker.wait_counts("one", 3)
    docker("checkpoint", "create", "--leave-running", "one", "early")
    assert status(docker, "one") == "running"
    counted = docker.wait_counts("one", docker.counted("one")[-1] + 5)
    assert counted == list(range(len(counted)))
    docker("kill", "one")
    wait_for(lambda: status(docker, "one") == "exited", 20, "its end")
    before = docker.counted("one")
    restore(docker, "one", "early")
    wait_for(lambda: len(docker.counted("one")) > len(before) + 3, 20, "more numbers")
    after = docker.counted("one")[len(before) :]
    assert 3 < after[0] < before[-1]
    assert after == list(range(after[0], after[0] + len(after)))


def test_terminal(docker: Engine) -> None:
    start(docker, "-it", "--name=tty", "small", *ECHO)
    with docker.terminal("attach", "tty") as terminal:
        terminal.type("before\n")
        terminal.wait_for("<before on /dev/pts/0>")
    checkpoint(docker, "tty", "one")
    restore(docker, "tty", "one")
    with docker.terminal("attach", "tty") as terminal:
        terminal.type("after\n")
        terminal.wait_for("<after on /dev/pts/0>")


def test_network(docker: Engine) -> None:
    """Docker's bridge, which a hook of Docker's puts into the container at a start and at a restore."""
    docker("run", "--detach", "--runtime=shim", "--name=one", "small", *COUNT)
    before = docker("exec", "one", "cat", "/proc/net/route").stdout
    docker.wait_counts("one", 3)
    checkpoint(docker, "one", "first")
    reached = docker.counted("one")[-1]
    assert "eth0" in before
    if SUITE.docker_network == "host":
        refused = docker("start", "--checkpoint=first", "one", check=False)
        assert "bind-mount /proc/0/ns/net" in refused.stderr
        return
    restore(docker, "one", "first")
    assert docker("exec", "one", "cat", "/proc/net/route").stdout == before
    check_goes_on(docker, "one", reached + 3)
