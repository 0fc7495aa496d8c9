"""What the privileged worker takes for a request: one form, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import config
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
    assert worker.check({**GOOD, "leave_running": leave_running}, fds) == {"leave_running": leave_running}


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


EVERYBODYS: dict[str, Any] = {**GOOD, "track_mem": True, "incremental": True, "seal": "0" * 128}
ROOTS: dict[str, Any] = {
    **EVERYBODYS,
    **{"tcp_established": True, "ext_unix_sk": True, "shell_job": False},
    **{"network_lock": "NFTABLES", "network": "joined", "for": "runc"},
    **{"lazy_pages": True, "page_server": ["host", 1]},
    "pre_dump": True,
}


def test_users_options(fds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert worker.check(EVERYBODYS, fds) == {name: value for name, value in EVERYBODYS.items() if name != "op"}


def test_roots_options(fds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert worker.check(ROOTS, fds) == {name: value for name, value in ROOTS.items() if name != "op"}


@pytest.mark.parametrize(
    "change",
    [
        *({"tcp_established": 1}, {"network_lock": "nftables"}, {"network": None}, {"for": "youki"}),
        *({"external": []}, {"incremental": "../other"}),
    ],
)
def test_roots_options_are_a_closed_set(
    fds: list[int], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check({**ROOTS, **change}, fds)


@pytest.mark.parametrize("name", [name for name in ROOTS if name not in EVERYBODYS])
def test_a_user_has_none_of_roots_options(fds: list[int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check({**GOOD, name: ROOTS[name]}, fds)


@pytest.mark.parametrize("seal", ["", "0" * 127, "0" * 129, "G" + "0" * 127, 0, None])
def test_a_seal_has_one_form(fds: list[int], seal: object) -> None:
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check({**EVERYBODYS, "seal": seal}, fds)


def test_an_increment_has_a_user_s_memory_tracked(fds: list[int]) -> None:
    with pytest.raises(ShimError, match="no track_mem"):
        worker.check({**EVERYBODYS, "track_mem": False}, fds)


def test_increments_are_the_site_s_to_allow(
    fds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("increments = false\n")
    monkeypatch.setattr(config.increments, "__defaults__", (str(settings),))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ShimError, match="increments are off in"):
        worker.check(EVERYBODYS, fds)
    assert worker.check(GOOD, fds)


def test_a_directory_to_work_in(fds: list[int], tmp_path: Path) -> None:
    assert worker.check(GOOD, [*fds, fds[1]]) == {"leave_running": True}
    with pytest.raises(ShimError, match="no image directory"):
        worker.check(GOOD, [*fds, fds[0]])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_number_of_descriptors(fds: list[int], count: int) -> None:
    with pytest.raises(ShimError, match="not one that this version knows"):
        worker.check(GOOD, (fds * 2)[:count])


def test_images_must_be_a_directory(fds: list[int]) -> None:
    with pytest.raises(ShimError, match="no image directory"):
        worker.check(GOOD, fds[::-1])
