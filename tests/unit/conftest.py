"""A config.json that is right, and the bundle and the checkpoint directory that go with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.task import pointers
from oci_criu_shim.transfer import received, sender


@pytest.fixture(autouse=True)
def notes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test notes anything in its caller's home directory."""
    place = str(tmp_path_factory.mktemp("home") / pointers.PLACE)
    monkeypatch.setattr(pointers, "place", lambda: place)


@pytest.fixture
def config() -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": False},
        "process": {"cwd": "/", "args": ["true"], "env": ["PATH=/bin", "EMPTY=", "EQUALS=a=b"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]},
        "annotations": {"org.example": "1"},
    }


@pytest.fixture
def bundle_path(tmp_path: Path, config: dict[str, Any]) -> Path:
    path = tmp_path / "bundle"
    (path / "rootfs").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The memory of this node, into which checkpoints are received."""
    place = tmp_path / "shm"
    place.mkdir()
    monkeypatch.setattr(received, "MEMORY", str(place))
    monkeypatch.setattr(sender, "MEMORY", str(place))
    return place
