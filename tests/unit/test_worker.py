"""What the privileged worker takes for a request: one form, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.errors import ShimError
from oci_criu_shim.privileged import worker

GOOD: dict[str, Any] = {"op": "dump", "leave_running": True}


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    opened = [os.open("/dev/null", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("leave_running", [True, False])
def test_taken(fds: list[int], leave_running: bool) -> None:
    assert worker.check({**GOOD, "leave_running": leave_running}, fds) is leave_running


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"op": "dump"},
        {"leave_running": True},
        {**GOOD, "op": "restore"},
        {**GOOD, "op": ["dump"]},
        {**GOOD, "leave_running": 1},
        {**GOOD, "leave_running": "true"},
        {**GOOD, "leave_running": None},
        {**GOOD, "pid": 1},
        {**GOOD, "options": {"shell_job": True}},
    ],
)
def test_refused(fds: list[int], message: dict[str, Any]) -> None:
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check(message, fds)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_number_of_descriptors(fds: list[int], count: int) -> None:
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check(GOOD, (fds * 2)[:count])


def test_images_must_be_a_directory(fds: list[int]) -> None:
    with pytest.raises(ShimError, match="no image directory"):
        worker.check(GOOD, fds[::-1])
