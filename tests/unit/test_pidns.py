"""Whose namespace it is, to which a signal goes; that it gets there is tests/node's."""

from __future__ import annotations

import os

from oci_criu_shim.host import pidns


def test_nobody_leads_our_own_namespace() -> None:
    """It may be that of the first process, where these tests run in a container."""
    assert not pidns.is_led_by(os.getpid())
    assert not pidns.is_led_by(1)
    assert not pidns.is_led_by(1 << 30)


def test_ours_is_not_signalled() -> None:
    assert pidns._inside(os.getpid(), 0)
