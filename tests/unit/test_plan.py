"""What is started, and what other verbs must know of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oci_criu_shim.container import plan
from oci_criu_shim.container.plan import Plan
from oci_criu_shim.container.record import Container
from oci_criu_shim.log import Log
from tests.unit.test_registry import container

__all__ = ["container"]


@pytest.mark.parametrize(("user", "manager", "own"), [(0, "cgroupfs", False), (7, "cgroupfs", True), (7, "", False)])
def test_a_group_of_its_own(
    container: Container, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, manager: str, own: bool
) -> None:
    """Root's have one in any case, and it comes back."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    given = {"backend": "crun", **({"cgroup-manager": manager} if manager else {})}
    made = Plan(container, str(bundle_path), given, [], None, Log())
    assert made.record()["own_group"] == own


def test_what_a_caller_hands_on() -> None:
    reader, writer = os.pipe()
    try:
        found = plan._preserved(["--no-pivot", f"--preserve-fds={writer - 2}"])
        assert f"pipe:[{os.fstat(reader).st_ino}]" in found
        assert plan._preserved(["--no-pivot"]) == plan._preserved(["--preserve-fds=x"]) == []
    finally:
        os.close(reader)
        os.close(writer)
