"""The control group of a container of root's, with its limits, comes back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.support import Life, Site

CPU = {"shares": 512, "quota": 50000, "period": 100000}
LIMITS = {"memory": {"limit": 300 << 20}, "pids": {"limit": 55}, "cpu": CPU}
DEVICES = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
FILES = (
    *("memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.shares", "cpu/cpu.cfs_quota_us"),
    "devices/devices.list",
)


def groups(life: Life) -> dict[str, Any]:
    """The init's control groups, and the files in them that say their limits."""
    pid = life.state()["pid"]
    lines = life.site.exec(["cat", f"/proc/{pid}/cgroup"]).stdout.splitlines()
    paths = dict(line.split(":", 2)[1:] for line in lines)
    found: dict[str, Any] = {"paths": paths}
    for name in FILES:
        controller, file = name.split("/")
        text = life.site.exec(["cat", f"/sys/fs/cgroup/{controller}{paths[controller]}/{file}"]).stdout
        found[name] = sorted(text.split("\n"))
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
        assert before["paths"]["memory"] == path
        assert before["pids/pids.max"] == ["", "55"]
        for _ in range(2):
            life.checkpoint()
            life.restore()
            life.look()
            assert groups(life) == before
        assert life.end() == 0
        assert not site.exec(["find", "/sys/fs/cgroup", "-path", f"*{path}"]).stdout
    finally:
        life.stop()
