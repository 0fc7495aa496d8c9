"""A job that must go, and its containers on this node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim import preempt, process
from oci_criu_shim.container import Container


def neighbour(root: Path) -> Container:
    """A container of the job's whose checkpoints were asked for."""
    made = Container(str(root), "neighbour")
    made.reserve()
    environment = ["SLURM_JOB_ID=7", "SLURM_CHECKPOINT=preempt"]
    config = {"process": {"env": environment}}
    made.save({"bundle": "/", "config": config, "supervisor": process.identity(os.getpid())})
    return made


def test_one_that_ends_meanwhile_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [neighbour(tmp_path).load()]

    def load(_: Container) -> dict[str, Any]:
        return records.pop() if records else {}

    monkeypatch.setattr(Container, "load", load)
    preempt._have_all_go(Container(str(tmp_path), "one"))
    assert list(preempt.asked(str(tmp_path))) == []
