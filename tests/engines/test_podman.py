"""podman with this runtime: its verbs, and its checkpoints in all their forms."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator

import pytest

from tests import NAME
from tests.engines.support import COUNT, ECHO, PODMAN, SHIM, Engine, export_root, inspected, leftovers, shown, write
from tests.harness.cluster import Cluster, wait_for

# A loopback connection of a program with itself: each number is sent, received and printed.
TCP = """\
import socket, time
listener = socket.create_server(("127.0.0.1", 5000))
one = socket.create_connection(("127.0.0.1", 5000))
other, _ = listener.accept()
for number in range(100000):
    one.sendall(b"%d" % number)
    print(other.recv(100).decode(), flush=True)
    time.sleep(0.1)
"""
IMAGE = "localhost/small"
# podman restores an archive with a runtime of the same name only: here ours goes by runc's.
NAMED_RUNC = '[engine.runtimes]\nrunc = ["/usr/bin/oci-criu-shim"]\n'


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(f"{NAME}-engine-podman", nodes=1) as made:
        write(made.shared / "tcp.py", TCP)
        write(made.shared / "runc.conf", NAMED_RUNC)
        made.exec("n1", ["sh", "-c", IDS], "root")
        Engine(made, PODMAN)("import", "--quiet", export_root(made), IMAGE)
        yield made


@pytest.fixture
def podman(cluster: Cluster) -> Iterator[Engine]:
    """podman with our runtime; no container is left after the test, and nothing of any."""
    engine = Engine(cluster, (*PODMAN, f"--runtime={SHIM}"))
    yield engine
    engine("rm", "--all", "--force", "--time=0")
    wait_for(lambda: leftovers(cluster) == "", 10, f"nothing to be left: {leftovers(cluster)}")


def start(podman: Engine, name: str, *options: str, argv: tuple[str, ...] = COUNT) -> None:
    podman("run", "--detach", f"--name={name}", "--network=none", *options, IMAGE, *argv)


def checkpoint(podman: Engine, name: str, *options: str) -> str:
    return quietly(podman, "checkpoint", *options, name)


def restore(podman: Engine, *words: str) -> str:
    return quietly(podman, "restore", *words)


def quietly(podman: Engine, *words: str) -> str:
    """What the command prints; podman passes on what its runtime says on standard error, which is nothing."""
    done = podman("container", *words)
    assert done.stderr == ""
    return done.stdout


def status(podman: Engine, name: str) -> str:
    return podman("inspect", "--format={{.State.Status}}", name).stdout.strip()


def check_goes_on(podman: Engine, name: str, at_least: int) -> None:
    """It counts on from where it was, and no number is missing or twice."""
    counted = podman.wait_counts(name, at_least)
    assert counted == list(range(len(counted)))


def check_verbs(podman: Engine, name: str) -> None:
    """All that can be done to a running container; it is stopped and removed by that."""
    assert podman("exec", name, "echo", "hello").stdout == "hello\n"
    filtered = podman("exec", name, "grep", "Seccomp:", "/proc/self/status", "/proc/1/status").stdout
    assert [line.split(":")[-1].strip() for line in filtered.splitlines()] == ["2", "2"]
    # podman 5.4 gives up if a process of the container ends while it looks.
    wait_for(lambda: "bash -c" in podman("top", name, "args", check=False).stdout, 20, "its processes")
    podman("pause", name)
    before = podman.counted(name)
    assert (status(podman, name), podman.counted(name)) == ("paused", before)
    podman("unpause", name)
    podman.wait_counts(name, before[-1])
    stats = json.loads(podman("stats", "--no-stream", "--format=json", name).stdout)
    assert int(stats[0]["pids"]) >= 1
    podman("kill", "--signal=CONT", name)
    podman("stop", "--time=1", name)
    assert status(podman, name) == "exited"
    podman("rm", name)


def test_without_checkpoints(podman: Engine) -> None:
    start(podman, "plain")
    check_goes_on(podman, "plain", 3)
    check_verbs(podman, "plain")
    assert podman("run", "--rm", "--network=none", IMAGE, "sh", "-c", "exit 7", check=False).returncode == 7


def test_in_place(podman: Engine) -> None:
    """Again and again. The container's own storage keeps the images if that is asked."""
    start(podman, "one")
    podman.wait_counts("one", 3)
    for options in ((), ("--keep",)):
        checkpoint(podman, "one", *options)
        assert status(podman, "one") == "exited"
        reached = podman.counted("one")[-1]
        restore(podman, *options, "one")
        check_goes_on(podman, "one", reached + 3)
    limits = podman("inspect", "--format={{.HostConfig.PidsLimit}} {{.State.CgroupPath}}", "one").stdout.split()
    path = f"/sys/fs/cgroup/pids{limits[1]}/pids.max"
    assert podman.cluster.exec("n1", ["cat", path], "root").stdout.strip() == limits[0]
    check_verbs(podman, "one")


def test_leave_running(podman: Engine) -> None:
    start(podman, "one")
    podman.wait_counts("one", 3)
    checkpoint(podman, "one", "--leave-running", "--export=/shared/running.tar", "--compress=none")
    assert status(podman, "one") == "running"
    check_goes_on(podman, "one", podman.counted("one")[-1] + 3)
    with tarfile.open(podman.cluster.shared / "running.tar") as archive:
        names = set(archive.getnames())
    assert names >= {"config.dump", "spec.dump", "stats-dump"}
    assert names >= {f"checkpoint/{name}" for name in ("inventory.img", "descriptors.json", "manifest.json")}
    assert not {name for name in names if name.startswith("checkpoint/.stage")}
    check_verbs(podman, "one")


def test_three_from_one_archive(podman: Engine) -> None:
    start(podman, "one")
    podman.wait_counts("one", 3)
    said = checkpoint(podman, "one", "--export=/shared/one.tar", "--compress=none", "--print-stats")
    assert json.loads(said)["container_statistics"][0]["criu_statistics"]["pages_written"] > 0
    row, found = shown(podman.cluster, "/shared/one.tar"), inspected(podman.cluster, "/shared/one.tar")
    assert (row[0], row[5], found["image"], found["runtime"]) == ("one", "Podman", f"{IMAGE}:latest", SHIM)
    assert found["statistics"]["pages_written"] > 0
    assert (found["process_tree"]["command"], found["file_descriptors"][0]["pid"]) == ("bash", 1)
    reached = podman.counted("one")[-1]
    podman("rm", "one")
    for name in ("a", "b", "c"):
        said = restore(podman, "--import=/shared/one.tar", f"--name={name}", "--print-stats")
        assert json.loads(said)["container_statistics"][0]["criu_statistics"]["pages_restored"] > 0
    for name in ("a", "b", "c"):
        check_goes_on(podman, name, reached + 3)
        check_verbs(podman, name)


def test_restored_ones_are_checkpointed(podman: Engine) -> None:
    start(podman, "one")
    podman.wait_counts("one", 3)
    reached = 0
    for compress in ("gzip", "zstd"):
        checkpoint(podman, "one", f"--export=/shared/{compress}.tar", f"--compress={compress}")
        reached = podman.counted("one")[-1]
        podman("rm", "one")
        restore(podman, f"--import=/shared/{compress}.tar", "--name=one")
    check_goes_on(podman, "one", reached + 3)


def test_all_at_once(podman: Engine) -> None:
    names = ("one", "two")
    for name in names:
        start(podman, name)
        podman.wait_counts(name, 3)
    checkpoint(podman, "--all")
    reached = {name: podman.counted(name)[-1] for name in names}
    assert [status(podman, name) for name in names] == ["exited", "exited"]
    podman("container", "restore", "--all")
    for name in names:
        check_goes_on(podman, name, reached[name] + 3)


def pod(podman: Engine, name: str, *options: str) -> tuple[str, ...]:
    podman("pod", "create", f"--name={name}", f"--infra-image={IMAGE}", "--infra-command=sleep 1000", *options)
    return ("run", "--detach", f"--pod={name}")


def test_pods(podman: Engine) -> None:
    """From one pod into another, if they don't share what CRIU dumps. podman asks first whether we can."""
    try:
        run = pod(podman, "first", "--share=net,uts")
        podman(*run, "--name=one", IMAGE, *COUNT)
        podman.wait_counts("one", 3)
        checkpoint(podman, "one", "--export=/shared/pod.tar", "--compress=none")
        reached = podman.counted("one")[-1]
        pod(podman, "second", "--share=net,uts")
        restore(podman, "--import=/shared/pod.tar", "--name=two", "--pod=second")
        assert podman("exec", "two", "hostname").stdout == "second\n"
        check_goes_on(podman, "two", reached + 3)
        podman("pod", "rm", "--force", "--time=0", "second")
        podman(*pod(podman, "default"), "--name=three", IMAGE, *COUNT)
        refused = podman("container", "checkpoint", "three", check=False)
        assert (refused.returncode, "joins a namespace of type ipc" in refused.stderr) == (125, True)
        check_goes_on(podman, "three", 3)
    finally:
        podman("pod", "rm", "--all", "--force", "--time=0")


def test_terminal(podman: Engine) -> None:
    with podman.terminal("run", "-it", "--name=tty", "--network=none", IMAGE, *ECHO) as terminal:
        terminal.type("before\n")
        terminal.wait_for("<before on /dev/pts/0>")
        checkpoint(podman, "tty")
    restore(podman, "tty")
    with podman.terminal("attach", "tty") as terminal:
        terminal.type("after\n")
        terminal.wait_for("<after on /dev/pts/0>")


def test_tcp(podman: Engine) -> None:
    """A connection is kept if that is asked; else nothing happens to the container, and the reason is said."""
    start(podman, "tcp", "--volume=/shared/tcp.py:/tcp.py:ro", argv=("python3", "/tcp.py"))
    podman.wait_counts("tcp", 3)
    refused = podman("container", "checkpoint", "tcp", check=False)
    assert (refused.returncode, "has a TCP connection open: tcp 127.0.0.1:" in refused.stderr) == (125, True)
    check_goes_on(podman, "tcp", podman.counted("tcp")[-1] + 3)
    checkpoint(podman, "tcp", "--tcp-established", "--export=/shared/tcp.tar", "--compress=none")
    reached = podman.counted("tcp")[-1]
    refused = podman("container", "restore", "--import=/shared/tcp.tar", "--name=again", check=False)
    assert (refused.returncode, "Connected TCP socket in image" in refused.stderr) == (125, True)
    podman("rm", "--all")
    restore(podman, "--tcp-established", "--import=/shared/tcp.tar")
    check_goes_on(podman, "tcp", reached + 3)


@pytest.mark.parametrize("option", ["--pre-checkpoint", "--with-previous"])
def test_pre_checkpoint_is_refused(podman: Engine, option: str) -> None:
    """This kernel does not track what memory is written. podman itself looks for the first one's images."""
    start(podman, "one")
    refused = podman("container", "checkpoint", option, "one", check=False)
    assert refused.returncode != 0
    assert ("tracks what memory is written" in refused.stderr) == (option == "--pre-checkpoint")
    check_goes_on(podman, "one", 3)


def test_networks(podman: Engine) -> None:
    """A bridge of podman's, and another container's network: both are namespaces that config.json names."""
    podman("run", "--detach", "--name=bridged", IMAGE, *COUNT)
    podman("run", "--detach", "--name=joined", "--network=container:bridged", IMAGE, *COUNT)
    podman.wait_counts("joined", 3)
    checkpoint(podman, "joined")
    restore(podman, "joined")
    links = [podman("exec", name, "readlink", "/proc/self/ns/net").stdout for name in ("bridged", "joined")]
    assert links[0] == links[1]
    podman("rm", "--force", "--time=0", "joined")
    checkpoint(podman, "bridged")
    restore(podman, "bridged")
    assert "eth0" in podman("exec", "bridged", "cat", "/proc/net/dev").stdout
    check_goes_on(podman, "bridged", podman.counted("bridged")[-1] + 3)


def test_shared_pids_are_refused(podman: Engine) -> None:
    start(podman, "one")
    start(podman, "two", "--pid=container:one")
    refused = podman("container", "checkpoint", "two", check=False)
    assert (refused.returncode, "no pid namespace of its own" in refused.stderr) == (125, True)
    check_goes_on(podman, "two", 3)
    podman("rm", "--force", "--time=0", "two")


# crun 1.21 gives the node's /dev/null, which is this machine's, to the container's root if that is its input.
MAPPED = ("--uidmap=0:100000:5000", "--gidmap=0:100000:5000", "--device=/dev/fuse", "--interactive")
# --userns=auto takes the first, whose user must be there since podman 5.8; a user's podman takes the second.
IDS = (
    "useradd --system containers;"
    " for file in /etc/subuid /etc/subgid; do printf '%s:65536\\n' containers:100000 alice:200000 >>$file; done"
)


def test_user_namespace_of_podmans_choice(podman: Engine) -> None:
    start(podman, "one", "--userns=auto:size=5000", "--interactive")
    podman.wait_counts("one", 3)
    checkpoint(podman, "one")
    reached = podman.counted("one")[-1]
    restore(podman, "one")
    check_goes_on(podman, "one", reached + 3)
    assert podman("exec", "one", "cat", "/proc/self/uid_map").stdout.split() == ["0", "100000", "5000"]


def test_user_namespace(podman: Engine) -> None:
    """In place, and elsewhere; whose ids are nobody's on the node."""
    start(podman, "one", *MAPPED)
    podman.wait_counts("one", 3)
    checkpoint(podman, "one")
    reached = podman.counted("one")[-1]
    restore(podman, "one")
    check_goes_on(podman, "one", reached + 3)
    checkpoint(podman, "one", "--export=/shared/mapped.tar", "--compress=none")
    reached = podman.counted("one")[-1]
    podman("rm", "one")
    said = restore(podman, "--import=/shared/mapped.tar", "--print-stats")
    assert json.loads(said)["container_statistics"][0]["criu_statistics"]["pages_restored"] > 0
    check_goes_on(podman, "one", reached + 3)
    assert podman("exec", "one", "cat", "/proc/self/uid_map").stdout.split() == ["0", "100000", "5000"]
    check_verbs(podman, "one")


def test_files_and_limits(podman: Engine) -> None:
    """Volumes, a tmpfs, a read-only root file system and limits are the same after a restore elsewhere."""
    options = ("--read-only", "--tmpfs=/scratch", "--volume=/shared:/data:ro", "--memory=200m", "--cpus=0.5")
    start(podman, "one", *options)
    podman("exec", "one", "sh", "-c", "echo words >/scratch/file")
    checkpoint(podman, "one", "--export=/shared/files.tar", "--compress=none")
    podman("rm", "one")
    restore(podman, "--import=/shared/files.tar")
    assert podman("exec", "one", "cat", "/scratch/file").stdout == "words\n"
    for path in ("/x", "/data/x"):
        assert "Read-only" in podman("exec", "one", "touch", path, check=False).stderr
    group = podman("inspect", "--format={{.State.CgroupPath}}", "one").stdout.strip()
    limit = f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"
    assert podman.cluster.exec("n1", ["cat", limit], "root").stdout.strip() == str(200 << 20)


@pytest.fixture
def as_runc(cluster: Cluster) -> Engine:
    """podman that takes ours for runc."""
    return Engine(cluster, ("env", "CONTAINERS_CONF_OVERRIDE=/shared/runc.conf", *PODMAN, "--runtime=runc"))


@pytest.fixture
def with_runc(cluster: Cluster) -> Engine:
    """podman with runc itself."""
    return Engine(cluster, (*PODMAN, "--runtime=runc"))


def test_runcs_archive(podman: Engine, as_runc: Engine, with_runc: Engine) -> None:
    start(with_runc, "one")
    with_runc.wait_counts("one", 3)
    checkpoint(with_runc, "one", "--export=/shared/runc.tar", "--compress=none")
    reached = with_runc.counted("one")[-1]
    with_runc("rm", "one")
    restore(as_runc, "--import=/shared/runc.tar", "--name=ours")
    check_goes_on(as_runc, "ours", reached + 3)
    checkpoint(as_runc, "ours")
    restore(as_runc, "ours")
    check_verbs(as_runc, "ours")


def test_cruns_archive(podman: Engine, cluster: Cluster) -> None:
    """crun 1.21 can dump; its restore stops the whole node if control groups are of version 1."""
    write(cluster.shared / "crun.conf", NAMED_RUNC.replace("runc =", "crun ="))
    with_crun = Engine(cluster, (*PODMAN, "--runtime=crun"))
    as_crun = Engine(cluster, ("env", "CONTAINERS_CONF_OVERRIDE=/shared/crun.conf", *with_crun.words))
    start(with_crun, "one")
    with_crun.wait_counts("one", 3)
    checkpoint(with_crun, "one", "--export=/shared/crun.tar", "--compress=none")
    reached = with_crun.counted("one")[-1]
    with_crun("rm", "one")
    restore(as_crun, "--import=/shared/crun.tar", "--name=ours")
    check_goes_on(as_crun, "ours", reached + 3)
    as_crun("rm", "--force", "--time=0", "ours")


def test_our_archive_for_runc(podman: Engine, as_runc: Engine, with_runc: Engine) -> None:
    as_runc = Engine(as_runc.cluster, (*as_runc.words, "--runtime-flag=backend=runc"))
    start(as_runc, "one")
    as_runc.wait_counts("one", 3)
    checkpoint(as_runc, "one", "--export=/shared/ours.tar", "--compress=none")
    reached = as_runc.counted("one")[-1]
    as_runc("rm", "one")
    restore(with_runc, "--import=/shared/ours.tar", "--name=theirs")
    check_goes_on(with_runc, "theirs", reached + 3)
    with_runc("rm", "--force", "--time=0", "theirs")


def test_a_user(cluster: Cluster) -> None:
    """A user who is root in a namespace there. podman itself has no checkpoints for users."""
    words = (*PODMAN[:1], "--root=/tmp/alice/root", "--runroot=/tmp/alice/run", *PODMAN[3:], f"--runtime={SHIM}")

    def podman(*more: str, check: bool = True) -> str:
        argv = ["env", "XDG_RUNTIME_DIR=/tmp/alice", *words, *more]
        return cluster.exec("n1", argv, "alice", check).stdout

    cluster.exec("n1", ["mkdir", "-m", "700", "/tmp/alice"], "alice")
    try:
        podman("import", "--quiet", "/shared/image.tar", IMAGE)
        assert podman("run", "--rm", "--network=none", IMAGE, "id", "-u") == "0\n"
        podman("run", "--detach", "--name=one", "--network=none", IMAGE, "sleep", "1000")
        assert podman("exec", "one", "echo", "hello") == "hello\n"
        assert podman("inspect", "--format={{.State.Status}}", "one") == "running\n"
        podman("container", "checkpoint", "one", check=False)
        assert podman("inspect", "--format={{.State.Status}}", "one") == "running\n"
    finally:
        podman("rm", "--all", "--force", "--time=0")
        podman("system", "migrate")  # ends what podman keeps of a user
        cluster.exec("n1", ["rm", "-r", "/tmp/alice"], "root")
