"""What a container that its caller looks after has as its standard input."""

from __future__ import annotations

import os

import pytest

from oci_criu_shim.host import process
from oci_criu_shim.restore.streams import CallersStreams

BEFORE = ["pipe:[1]", "pipe:[2]", "pipe:[3]"]


def with_input(descriptor: int, pending: bytes) -> CallersStreams:
    os.dup2(descriptor, 0)
    return CallersStreams(None, BEFORE, pending)


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_unread_input_and_then_the_end(size: int) -> None:
    """More than a pipe has room for, too."""

    def claim() -> int:
        streams = with_input(os.open(os.devnull, os.O_RDONLY), bytes(size))
        with open(streams.inside[0], "rb") as stream:
            return int(stream.read() != bytes(size) or streams.lost > 0)

    assert process.wait(process.fork(claim)) == 0


def test_input_that_nobody_can_pass_on() -> None:
    def claim() -> int:
        streams = with_input(os.pipe()[0], b"12345")
        return int(streams.inside[0] != 0 or streams.lost != 5)

    assert process.wait(process.fork(claim)) == 0
