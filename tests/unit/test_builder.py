"""What is made before CRIU starts, as far as it needs no container."""

from __future__ import annotations

import os
import resource

import pytest

from oci_criu_shim import builder


def test_limits_are_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the init's hard limits, the soft ones being CRIU's business; what is not allowed is left to CRIU."""
    ours = {0: (5, 10), 1: (5, -1), 2: (5, 10), 3: (5, 10), 4: (5, 10)}
    asked = {}

    def setrlimit(number: int, limits: tuple[int, int]) -> None:
        asked[number] = limits
        if number == 4:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", ours.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    builder._raise_limits([10, 20, 9, -1, 20])
    assert asked == {3: (5, -1), 4: (5, 20)}


def test_ids_outside() -> None:
    mapping = [[0, 300000, 10], [10, 7, 1]]
    assert [builder._outside(mapping, number) for number in (0, 9, 10)] == [300000, 300009, 7]


def test_first_closed_directory(tmp_path: object) -> None:
    """The one that a user whom nothing on the node belongs to does not get into."""
    path = f"{tmp_path}/open/closed/below/place"
    os.makedirs(path)
    for name, mode in ((f"{tmp_path}", 0o755), (f"{tmp_path}/open", 0o711), (f"{tmp_path}/open/closed", 0o700)):
        os.chmod(name, mode)
    above = builder._first_closed(f"{tmp_path}/x")
    assert builder._first_closed(path) == (above or f"{tmp_path}/open/closed")
