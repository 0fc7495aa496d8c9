"""Processes by their pids."""

from __future__ import annotations

import os

import pytest

from oci_criu_shim import process


def test_one_that_has_just_ended() -> None:
    """Its identity is asked for when it may have, and that is no error."""
    child = process.fork(lambda: 0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert process.start_time(child) is None
    assert process.identity(child)[0] == child
    assert process.wait(child) == 0
    with pytest.raises(ProcessLookupError):
        process.identity(child)
