"""Where a container's control group is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.container import cgroup_path
from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.container.record import Container


@pytest.mark.parametrize(
    ("linux", "path"),
    [
        ({}, "/one"),
        ({"cgroupsPath": ""}, "/one"),
        ({"cgroupsPath": "/above/below"}, "/above/below"),
        ({"cgroupsPath": "above"}, "/above"),
        ({"cgroupsPath": "../../etc"}, "/etc"),
        ({"cgroupsPath": "machine.slice:libpod:id"}, "/machine.slice/libpod-id.scope"),
        ({"cgroupsPath": "user-a-b.slice::id"}, "/user.slice/user-a.slice/user-a-b.slice/id.scope"),
        ({"cgroupsPath": ":docker:id"}, "/system.slice/docker-id.scope"),
    ],
)
def test_path(tmp_path: Path, linux: dict[str, Any], path: str) -> None:
    assert cgroup_path.find(Container(str(tmp_path), "one"), Bundle("/b", {"linux": linux})) == path
