"""Limits of processes, and what a node with lower ones allows."""

from __future__ import annotations

import os
import resource
from typing import Any

import pytest

from oci_criu_shim.container import limits
from oci_criu_shim.errors import Misfit

HERE = {**dict.fromkeys(limits.NAMES, -1), "NOFILE": 4096, "NPROC": 100}


@pytest.fixture(autouse=True)
def users_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(limits, "_here", lambda: HERE)


def needs(**noted: list[int]) -> Any:
    return {"machine": "", "cpu": [], "cgroup": 1, "image": "", "limits": noted}


def test_those_of_processes() -> None:
    found = limits.highest([os.getpid(), 1 << 22])
    assert found["NOFILE"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))
    for name, limit in found.items():
        number = getattr(resource, f"RLIMIT_{name}", None)  # Python doesn't know all
        assert number in (None, limits.NAMES.index(name))
        assert len(limit) == 2


@pytest.mark.parametrize(
    ("noted", "refused", "said"),
    [
        ({"NOFILE": [1024, 4096]}, False, ""),
        ({"NOFILE": [1024, 20000]}, False, "RLIMIT_NOFILE 4096 (was 20000)"),
        ({"NOFILE": [5000, 20000]}, True, "RLIMIT_NOFILE 4096 (was 20000)"),
        ({"NOFILE": [-1, -1]}, True, "RLIMIT_NOFILE 4096 (was unlimited)"),
        ({"NPROC": [200, 200]}, False, "RLIMIT_NPROC 100 (was 200)"),
        ({"MEMLOCK": [-1, -1]}, False, ""),
        ({}, False, ""),
    ],
)
def test_a_node_that_allows_less(noted: dict[str, list[int]], refused: bool, said: str) -> None:
    if refused:
        with pytest.raises(Misfit, match=r"RLIMIT_NOFILE of .*, and no more than 4096 is allowed here"):
            limits.check(needs(**noted))
    else:
        limits.check(needs(**noted))
    assert said in "".join(limits.differences(needs(**noted)))
    assert bool(said) == bool(list(limits.differences(needs(**noted))))


def test_a_process_that_had_more() -> None:
    """Its soft limit comes back as it was if that is allowed."""
    rows = [{"cur": limits.INFINITY, "max": limits.INFINITY} for _ in limits.NAMES]
    rows[7] = {"cur": 2000, "max": 20000}
    core = {"entries": [{"tc": {"rlimits": {"rlimits": rows}}}]}
    needed = needs(NOFILE=[2000, 20000], NPROC=[-1, -1])
    assert limits.lower(needed, core)
    assert rows[6:9] == [{"cur": 100, "max": 100}, {"cur": 2000, "max": 4096}, rows[8]]
    assert not limits.lower(needed, core)
    assert not limits.lower(needed, {"entries": [{"thread_core": {}}]})


def test_root_may_raise_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    limits.check(needs(NOFILE=[5000, 20000]))
