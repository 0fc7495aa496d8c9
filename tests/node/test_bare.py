"""Tasks without a container: what they see is as it was after a checkpoint and a restore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.node import bare
from tests.node.support import Life, Site

PROGRAM = "/src/tests/harness/programs/bare.py"


@contextmanager
def running(site: Site, *words: str, places: str = bare.PLACES) -> Iterator[Life]:
    life = bare.task(site, "alice", *words, places=places)
    with site.lending("alice"):
        life.run()
        try:
            yield life
        finally:
            life.stop()


def test_comes_back(site: Site) -> None:
    """Its ids, its place, its files in /tmp and /dev/shm, open or not, and elsewhere, and System V memory."""
    with running(site, "python3", "-I", PROGRAM) as life:
        before = life.look()
        assert (before["ids"], before["pid"], before["cwd"]) == ([1000, 1000], 2, "/home/alice")
        assert before["processes"] == ["1", "2"]
        for looks in (2, 3):
            life.checkpoint()
            life.restore()
            assert life.look() == {**before, "looks": looks}
        assert life.end() == 7


def test_runs_on(site: Site) -> None:
    """What comes after a checkpoint is not in it."""
    script = "echo one >/tmp/file; echo ready; read -r _; cat /tmp/file; echo two >/tmp/file; read -r _; exit 5"
    with running(site, "sh", "-c", script) as life:
        assert life.process and life.process.stdout and life.process.stdout.readline() == "ready\n"
        life.checkpoint("--leave-running")
        life.send("on\n")
        assert life.process.stdout.readline() == "one\n"
        life.stop()
        life.restore()
        life.send("on\non\n")
        assert life.process.communicate(timeout=20)[0] == "one\n"
        assert life.process.returncode == 5


def test_too_much_in_its_own_directories(site: Site) -> None:
    """The largest file is named, and the task runs on."""
    script = "head -c 3000000 /dev/zero >/var/tmp/large; echo >/tmp/small; echo ready; cat"
    site.exec(["sh", "-c", "echo 'bare-tmp = \"1M\"' >/etc/oci-criu-shim/config.toml"])
    try:
        with running(site, "sh", "-c", script) as life:
            assert life.process and life.process.stdout and life.process.stdout.readline() == "ready\n"
            said = life.checkpoint(check=False).stderr
            assert "the largest is /var/tmp/large, of 2.9 MiB" in said and "1.0 MiB (bare-tmp)" in said
            life.send("still here\n")
            assert life.process.stdout.readline() == "still here\n"
    finally:
        site.exec(["sh", "-c", ": >/etc/oci-criu-shim/config.toml"])


def test_without_directories_of_its_own(site: Site) -> None:
    """Files in the node's /tmp stay there."""
    script = "echo node >/tmp/of-the-node; exec 3</tmp/of-the-node; echo ready; read -r _; cat <&3"
    with running(site, "sh", "-c", script, places="") as life:
        assert life.process and life.process.stdout and life.process.stdout.readline() == "ready\n"
        life.checkpoint()
        assert site.exec(["cat", "/tmp/of-the-node"]).stdout == "node\n"
        life.restore()
        life.send("on\n")
        assert life.process.stdout.readline() == "node\n"
    site.exec(["rm", "/tmp/of-the-node"])


def test_of_another_kind(site: Site) -> None:
    """A container's checkpoint is none for a task without one, nor is such a task root's."""
    container = site.container("alice", site.spec("alice"))
    with site.lending("alice"):
        container.run()
        container.look()
        container.checkpoint()
        task = bare.task(site, "alice", "sleep", "300")
        argv = task.argv("restore", "--image-path", container.images, "--bundle", task.bundle, task.name)
        done = site.exec(argv, "alice", check=False)
    assert done.returncode and "is of a task with a container, and this task is not" in done.stderr
    task.spec["process"] |= {"env": [], "user": {"uid": 0, "gid": 0}}
    for kind in ("uidMappings", "gidMappings"):
        task.spec["linux"][kind] = [{"containerID": 0, "hostID": 0, "size": 1}]
    task.write()
    done = site.exec(["oci-criu-shim", "--root", "/root/run", "run", "--bundle", task.bundle, "task"], check=False)
    assert done.returncode and "root's tasks are not run without a container" in done.stderr


def test_a_node_without_user_namespaces(site: Site) -> None:
    """It is said, and how to allow them."""
    task = bare.task(site, "alice", "true")
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    task.before = ("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", forbid, "sh")
    with site.lending("alice"):
        task.run()
        assert task.process and task.process.wait(20) == 1
    assert "can't be started: unshare: No space left on device (hint: are unprivileged user" in task.said()
