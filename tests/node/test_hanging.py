"""A dump or a restore that does not get on is ended, with the reason, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.cluster import wait_for
from tests.harness.cluster.waiting import patient
from tests.node.support import Site

HANGS = 60  # seconds without progress (host/progress.py)
# CRIU waits for the hook's end; then it does nothing any more.
STOP = {"path": "/bin/sh", "args": ["sh", "-c", "pkill -STOP -u 1000 -f '^criu: restore'; true"]}
# A child of it opens a FIFO before it turns into a program, and it waits for that uninterruptibly (vfork(2)).
WAITING = """
import os
os.mkfifo("/tmp/waits")
if not os.fork():
    actions = [(os.POSIX_SPAWN_OPEN, 1, "/tmp/waits", os.O_WRONLY, 0)]
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions)
    os.execvp("sleep", ["sleep", "600"])
os.execvp("python3", ["python3", "-I", "/inside.py"])
"""
# It takes connections, and never says a word.
SILENT = """
import socket, signal
listener = socket.create_server(("127.0.0.1", 9000))
print("ready", flush=True)
signal.pause()
"""


def test_a_restore(site: Site) -> None:
    spec = site.spec("alice")
    spec["hooks"] = {"createRuntime": [STOP]}
    life = site.container("alice", spec)
    try:
        with site.lending("alice"):
            life.run()
            life.look()
            life.checkpoint()
        life.restore()
        assert life.process
        life.process.communicate(timeout=patient(HANGS + 30))
        assert life.process.returncode == 1
        assert "could not restore c" in life.said() and "CRIU made no progress for 6" in life.said()
        wait_for(lambda: not left(life.site), 10, "the end of all that it was restoring")
    finally:
        life.stop()


def left(site: Site) -> str:
    return site.exec(["pgrep", "-u", "1000", "-f", "inside.py|^criu: "], check=False).stdout


def test_a_users_dump(site: Site) -> None:
    """While it packs a tmpfs, all being frozen."""
    spec = site.spec("alice")
    spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    script = "head -c 150M /dev/zero >/tmp/zeros; exec python3 -I /inside.py"
    spec["process"]["args"] = ["sh", "-c", script]
    life = site.container("alice", spec)
    stop = "until pkill -STOP -u alice -f '^criu: dump'; do sleep 0.01; done"
    argv = site.cluster.argv(site.node, ["timeout", "60", "sh", "-c", stop], "root")
    try:
        with site.lending("alice"):
            life.run()
            life.look()
            with subprocess.Popen(argv):
                done = life.checkpoint(check=False)
            assert (done.returncode, "CRIU made no progress for 6" in done.stderr) == (1, True), done.stderr
            assert life.look()["uname"]
            life.checkpoint()
    finally:
        life.stop()


@contextmanager
def silent_page_server(site: Site) -> Iterator[None]:
    argv = site.cluster.argv(site.node, ["python3", "-Ic", SILENT], "root")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout and server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def test_a_dump(site: Site) -> None:
    """Of memory that goes to a server which takes none."""
    life = site.container("root", site.spec("root"))
    try:
        life.run()
        life.look()
        with silent_page_server(site):
            done = life.checkpoint("--page-server", "127.0.0.1:9000", check=False)
        assert (done.returncode, "made no progress for 6" in done.stderr) == (1, True), done.stderr
        assert life.look()["uname"]
        assert site.exec(["grep", "TracerPid", f"/proc/{life.state()['pid']}/status"]).stdout.split()[1] == "0"
        life.checkpoint()
    finally:
        life.stop()


@pytest.mark.parametrize("user", ["alice", "root"])
def test_a_process_that_can_not_be_stopped(site: Site, user: str) -> None:
    spec = site.spec(user)
    spec["process"]["args"] = ["python3", "-I", "-c", WAITING]
    spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    life = site.container(user, spec)
    try:
        with site.lending(user):
            life.run()
            life.look()
            done = life.checkpoint(check=False)
            assert (
                done.returncode == 1
                and "can't be stopped: it waits for a child that it has made by vfork(2)" in done.stderr
            ), done.stderr
            assert life.look()["uname"]
            site.exec(["timeout", "5", "cat", f"/proc/{life.state()['pid']}/root/tmp/waits"], check=False)
            life.checkpoint()
    finally:
        life.stop()
