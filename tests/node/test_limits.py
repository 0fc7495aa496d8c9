"""The control group of a container of root's, with its limits, comes back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.support import Life, Site

CPU = {"shares": 512, "quota": 50000, "period": 100000}
LIMITS = {"memory": {"limit": 300 << 20}, "pids": {"limit": 55}, "cpu": CPU}
DEVICES = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
FILES = {
    1: ("memory.limit_in_bytes", "pids.max", "cpu.shares", "cpu.cfs_quota_us", "devices.list"),
    2: ("memory.max", "pids.max", "cpu.weight", "cpu.max"),
}


def groups(life: Life) -> dict[str, Any]:
    """The init's control groups, and the files in them that say their limits."""
    pid = life.state()["pid"]
    lines = life.site.exec(["cat", f"/proc/{pid}/cgroup"]).stdout.splitlines()
    paths = dict(line.split(":", 2)[1:] for line in lines)
    v1 = "memory" in paths
    found: dict[str, Any] = {"path": paths["memory" if v1 else ""]}
    for name in FILES[1 if v1 else 2]:
        directory = f"/sys/fs/cgroup/{name.split('.')[0] if v1 else ''}{found['path']}"
        found[name] = sorted(life.site.exec(["cat", f"{directory}/{name}"]).stdout.split("\n"))
    return found


@pytest.mark.parametrize("configured", ["", "/above/below"])
def test_limits(site: Site, configured: str) -> None:
    spec = site.spec("root")
    spec["linux"]["resources"] = {**LIMITS, "devices": DEVICES}
    if configured:
        spec["linux"]["cgroupsPath"] = configured
    life = site.container("root", spec)
    path = configured or f"/{life.name}"
    try:
        life.run()
        life.look()
        before = groups(life)
        assert before["path"] == path
        assert before["pids.max"] == ["", "55"]
        for _ in range(2):
            life.checkpoint()
            life.restore()
            life.look()
            assert groups(life) == before
        assert life.end() == 0
        assert not site.exec(["find", "/sys/fs/cgroup", "-path", f"*{path}"]).stdout
    finally:
        life.stop()


def test_a_group_below(site: Site) -> None:
    """It is said, once, that a process comes back in the container's own."""
    spec = site.spec("root")
    spec["process"]["args"] = ["sh", "-c", "sleep 600 & exec python3 -I /inside.py"]
    life = site.container("root", spec)

    def groups_of(script: str) -> str:
        top = "/sys/fs/cgroup$(sed -n 's/^[0-9]*:pids:/\\/pids/p; s/^0:://p' /proc/$0/cgroup | head -n 1)"
        script = f"set -e; top={top}; child=$(pgrep -P $0 sleep); {script}; sort -u /proc/$0/cgroup /proc/$child/cgroup"
        return site.exec(["sh", "-c", script, str(life.state()["pid"])]).stdout

    try:
        life.run()
        life.look()
        before = groups_of(":")
        assert groups_of("mkdir $top/below; echo $child >$top/below/cgroup.procs") != before
        said = [life.checkpoint("--leave-running").stderr for _ in range(2)]
        assert "(sleep) is in a control group that was made in the container, and comes back in the con" in said[0]
        assert "control group" not in said[1]
        life.checkpoint()
        life.restore()
        life.look()
        assert groups_of(":") == before
        assert life.end() == 0
    finally:
        life.stop()
