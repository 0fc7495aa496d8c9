"""Offsets of time namespaces, as the kernel takes them."""

from __future__ import annotations

import time

import pytest

from oci_criu_shim.host import clocks


@pytest.mark.parametrize(
    ("nanoseconds", "written"),
    [
        (0, "0 0"),
        (1_500_000_000, "1 500000000"),
        (-1, "-1 999999999"),  # the nanoseconds may not be negative (time_namespaces(7))
        (-2_000_000_000, "-2 0"),
    ],
)
def test_lines(nanoseconds: int, written: str) -> None:
    assert clocks.lines({"monotonic": nanoseconds}) == f"monotonic {written}\n"


def test_one_line_a_clock() -> None:
    assert clocks.lines({"monotonic": 1, "boottime": 2}) == "monotonic 0 1\nboottime 0 2\n"


def test_own_offsets() -> None:
    assert set(clocks.offsets()) == set(clocks.NAMES)


def test_going_on_is_the_inverse_of_now() -> None:
    ours = {"monotonic": 5, "boottime": 6}
    theirs = {"monotonic": 7_000_000_000, "boottime": -8_000_000_000}
    begin = time.monotonic_ns()
    found = clocks.going_on(clocks.now(theirs, ours), ours)
    passed = time.monotonic_ns() - begin
    for name, offset in theirs.items():
        # What went by between the two is what the clocks must be set back by.
        assert 0 <= offset - found[name] <= passed
