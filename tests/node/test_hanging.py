"""A dump or a restore that does not get on is ended, with the reason, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.cluster import wait_for
from tests.harness.cluster.waiting import patient
from tests.node.support import Site, Spec

HANGS = 60  # seconds without progress (host/progress.py)
# A child that may only read, write and end from now on: what CRIU does last in it has the kernel kill it.
STRICT = """
import ctypes, os
reader, _ = os.pipe()
if not os.fork():
    ctypes.CDLL(None).prctl(22, 1, 0, 0, 0)
    os.read(reader, 1)
os.execvp("python3", ["python3", "-I", "/inside.py"])
"""
# It takes connections, and never says a word.
SILENT = """
import socket, signal
listener = socket.create_server(("127.0.0.1", 9000))
print("ready", flush=True)
signal.pause()
"""


def strict(spec: Spec) -> Spec:
    spec["process"]["args"] = ["python3", "-I", "-c", STRICT]
    return spec


def test_a_restore(site: Site) -> None:
    """Without privilege CRIU can't suspend seccomp; it waits for the killed process for ever."""
    life = site.container("alice", strict(site.spec("alice")))
    try:
        with site.lending("alice"):
            life.run()
            life.look()
            life.checkpoint()
        life.restore()
        assert life.process
        life.process.communicate(timeout=patient(HANGS + 30))
        assert life.process.returncode == 1
        said = life.said()
        assert "could not restore" in said and "made no progress for 6" in said and "suspend" in said
        wait_for(lambda: not left(life.site), 10, "the end of all that it was restoring")
    finally:
        life.stop()


def left(site: Site) -> str:
    return site.exec(["pgrep", "-u", "1000", "-f", "inside.py|criu swrk"], check=False).stdout


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
