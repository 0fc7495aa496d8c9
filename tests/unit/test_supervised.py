"""A container that is restored under a supervisor, before that looks after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import lifecycle, supervised
from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.container import Container
from oci_criu_shim.log import Log

INIT = 4711


class Restored:
    """Runs as INIT until it is ended."""

    ended: list[int]

    def __init__(self, plan: lifecycle.Plan, checkpoint: Checkpoint, log: Log) -> None:
        self.backend = plan.runtime

    def start(self, *_: object) -> int:
        return INIT

    def end(self, pid: int) -> None:
        self.ended.append(pid)


def test_nothing_runs_on_that_nobody_looks_after(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next checkpoint would be restored beside it."""
    Restored.ended = []
    monkeypatch.setattr("oci_criu_shim.restored.Restored", Restored)
    monkeypatch.setattr(supervised, "Signals", lambda: None)
    container = Container(str(tmp_path / "run"), "c")
    container.reserve()
    plan = lifecycle.Plan(container, str(bundle_path), {}, [], str(tmp_path / "none/pid"), Log())
    manifest: dict[str, Any] = {"input": "", "streams": ["", "", ""]}
    with pytest.raises(FileNotFoundError):
        supervised.Supervised(plan).begin(Checkpoint(str(tmp_path), manifest))
    assert Restored.ended == [INIT]
