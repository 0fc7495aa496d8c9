"""The batch script in a container."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oci_criu_shim.checkpoints.committed import Checkpoint
from oci_criu_shim.container import batch_script
from oci_criu_shim.container.bundle import Bundle
from tests.unit.test_schema import full_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """One whose /tmp leads elsewhere, with a job's script mounted."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/tmp").symlink_to("/private")
    (tmp_path / "own").write_text("own")
    mount = {"destination": "/tmp/slurm/startup", "type": "none", "source": "own", "options": ["bind", "ro"]}
    return Bundle(str(tmp_path), {"root": {"path": "rootfs"}, "mounts": [mount]})


def checkpoint(tmp_path: Path, content: str | None) -> Checkpoint:
    files: dict[str, Any] = {}
    if content is not None:
        (tmp_path / "startup").write_text(content)
        files = {"startup": len(content)}
    return Checkpoint(str(tmp_path), full_manifest(files=files))


def test_read(tmp_path: Path, bundle: Bundle) -> None:
    """The container's own, of which its directory in /proc tells; none where nothing is mounted."""
    assert batch_script.point(bundle) == "/private/slurm/startup"
    assert batch_script.read(os.getpid(), bundle) is None  # taken away by the container
    bundle.config["mounts"][0]["destination"] = "/elsewhere"
    assert batch_script.read(os.getpid(), bundle) is None


@pytest.mark.parametrize(("content", "needed"), [("own", False), ("another", True), (None, False)])
def test_copy(tmp_path: Path, bundle: Bundle, content: str | None, needed: bool) -> None:
    assert batch_script.copy(checkpoint(tmp_path, content), bundle) == (f"{tmp_path}/startup" if needed else None)


def test_copy_where_there_is_no_other(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "own").unlink()
    assert batch_script.copy(checkpoint(tmp_path, "own"), bundle) == f"{tmp_path}/startup"


def test_put(tmp_path: Path) -> None:
    checkpoint(tmp_path, "echo")
    batch_script.put(f"{tmp_path}/startup", f"{tmp_path}/made")
    assert (tmp_path / "made").read_text() == "echo"
    assert (tmp_path / "made").stat().st_mode & 0o7777 == 0o700
