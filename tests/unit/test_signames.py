"""Signals by name and number."""

from __future__ import annotations

import signal

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import signames


@pytest.mark.parametrize("text", ["15", "TERM", "SIGTERM", "sigterm", "term"])
def test_term(text: str) -> None:
    assert signames.parse(text) == signal.SIGTERM


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("RTMIN", signal.SIGRTMIN),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1),
        ("KILL", signal.SIGKILL),
        ("0", 0),  # as crun and runc: whether there is somebody to send to
        ("015", signal.SIGTERM),
    ],
)
def test_others(text: str, number: int) -> None:
    assert signames.parse(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", "65", "-9", "NONE", "SIG", "RTMIN+90", "RTMIN-1", "RTMAX+1", "RTNONE", "9 ", "\u0669"),
        *("_IGN", "_BLOCK", "KILL+1", "RTMIN+", "RTMIN+x", "RT+9"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ShimError, match="invalid signal"):
        signames.parse(text)
