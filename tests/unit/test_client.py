"""Who does the dump."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.dump import client
from oci_criu_shim.errors import Killed, ShimError
from oci_criu_shim.host import wire


def test_a_job_of_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ShimError, match="lends nothing to root's jobs"):
        client.connect(str(tmp_path))


def test_a_step_without_its_helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ShimError, match="no checkpoint helper"):
        client.connect(str(tmp_path / "helper.0.sock"))


@pytest.mark.parametrize("answer", [{}, {"event": "failed", "error": "CRIU ended", "killed": True}])
def test_who_is_at_work_is_killed(answer: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if answer:
        wire.send(theirs, answer)
    theirs.shutdown(socket.SHUT_WR)
    with ours, theirs, pytest.raises(Killed):
        client.dump(ours, {}, [], lambda _: None)


def test_how_long_it_was_frozen() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        wire.send(theirs, {"event": "dumped"})
        wire.send(theirs, {"event": "done", "frozen_ns": 1_500_000_000})
        assert client.dump(ours, {}, [], lambda _: None) == 1.5


def test_killed_while_the_container_is_looked_at() -> None:
    """It has ended by that, so it can't be looked at."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.send(theirs, {"event": "dumped"})
    wire.send(theirs, {"event": "failed", "error": "CRIU ended", "killed": True})

    def look(_: object) -> None:
        raise ProcessLookupError

    with ours, theirs, pytest.raises(Killed, match="CRIU ended"):
        client.dump(ours, {}, [], look)
