"""Files that nobody may read: the container's root may, and the user whose container it is may not."""

from __future__ import annotations

import pytest

from tests.node.support import Site

USERS = pytest.mark.parametrize("user", ["root", "alice"])
DIRECTORY = "/home/closed"
CLOSE = """
import os, subprocess, sys
os.chmod("/data/program", 0o111)
program = subprocess.Popen(["/data/program", "1000000"])
kept = os.open("/data/file", os.O_RDWR | os.O_APPEND)
os.set_inheritable(kept, True)
os.chmod("/data/file", 0)
os.execvp("python3", ["python3", "-I", "/inside.py"])
"""


@USERS
def test_kept(site: Site, user: str) -> None:
    """A program that runs and a file that is open, both closed to all."""
    spec = site.spec(user)
    for names in spec["process"]["capabilities"].values():
        names += ["CAP_DAC_OVERRIDE"]
    spec["mounts"].append({"destination": "/data", "type": "bind", "source": DIRECTORY, "options": ["bind"]})
    spec["process"]["args"] = ["python3", "-I", "-c", CLOSE]
    makes = "mkdir $0 && cp /bin/sleep $0/program && seq 1000 >$0/file && chown -R $1:$1 $0"
    site.exec(["sh", "-c", makes, DIRECTORY, user])
    life = site.container(user, spec)

    def running() -> list[str]:
        script = "pid=$(pgrep -P $0) && readlink /proc/$pid/exe && stat -Lc %a,%s /proc/$0/fd/*"
        return site.exec(["sh", "-c", script, str(life.state()["pid"])]).stdout.splitlines()

    try:
        with site.lending(user):
            life.run()
            life.look()
            before = running()
            assert "/data/program" in before[0]
            assert "0,3893" in before
            for _ in range(2):
                life.checkpoint()
                life.restore()
                life.look()
                assert running() == before
            assert life.end() == 0
    finally:
        life.stop()
        site.exec(["rm", "-r", DIRECTORY])
