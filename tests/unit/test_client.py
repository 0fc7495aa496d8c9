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


@pytest.mark.parametrize("taken", [True, False])
def test_memory_is_taken_from_a_socket(taken: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pages, criu = socket.socketpair()
    seen: list[socket.socket] = []

    def takes(version: tuple[int, ...], connection: socket.socket) -> bool:
        assert version == (4, 2)
        seen.append(connection)
        return taken

    with ours, theirs, pages, criu:
        wire.send(theirs, {"event": "ready", "criu": [4, 2]}, [pages.fileno()])
        for event in ("dumped", "done"):
            wire.send(theirs, {"event": event, "frozen_ns": 0})
        client.dump(ours, {"pages": True}, [], lambda _: None, takes=takes)
        asked = [wire.receive(theirs)[0] for _ in range(3)]
        assert asked == [{"op": "dump", "pages": True}, {"op": "pages" if taken else "files"}, {"op": "commit"}]
        assert (seen[0].fileno() >= 0) is taken
        seen[0].close()


def test_killed_while_the_container_is_looked_at() -> None:
    """It has ended by that, so it can't be looked at."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.send(theirs, {"event": "dumped"})
    wire.send(theirs, {"event": "failed", "error": "CRIU ended", "killed": True})

    def look(_: object) -> None:
        raise ProcessLookupError

    with ours, theirs, pytest.raises(Killed, match="CRIU ended"):
        client.dump(ours, {}, [], look)
