"""Whose namespace it is, to which a signal goes; that it gets there is tests/node's."""

from __future__ import annotations

import os
import subprocess

from oci_criu_shim.host import pidns, process


def test_nobody_leads_our_own_namespace() -> None:
    """It may be that of the first process, where these tests run in a container."""
    assert not pidns.is_led_by(os.getpid())
    assert not pidns.is_led_by(1)
    assert not pidns.is_led_by(1 << 30)


def test_ours_is_not_signalled() -> None:
    assert pidns._inside(os.getpid(), 0)


def test_all_of_a_namespace() -> None:
    """Whatever has come into it by another way than its init; here, what is in ours."""
    with subprocess.Popen(["sleep", "60"]) as child:
        found = pidns.members(os.getpid())
        assert {os.getpid(), child.pid} <= set(found) and found == sorted(found)
        assert process.command(child.pid) == "sleep 60"
        child.kill()
    assert process.command(child.pid) == ""
