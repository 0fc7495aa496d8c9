"""Once a day, what jobs have left that ended long ago goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from oci_criu_shim.slurm import controller
from oci_criu_shim.task import daily_prune
from tests.unit.test_ckpt import made as checkpoint


def test_what_ended_jobs_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a day what is old goes."""
    monkeypatch.setattr(controller, "known_jobs", lambda: {12})
    day = 86400
    stamp = tmp_path / daily_prune.STAMP
    old = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 8 * day))
    for key, created in (("7/0.0", ""), ("8/0.0", old), ("12/0.0", old)):
        checkpoint(tmp_path, key, created=created)
    for key in ("9/0.0", "10/0.0"):
        (tmp_path / key).mkdir(parents=True)
        (tmp_path / key / "finished.json").touch()
    for key in ("8/0.0", "9/0.0", "12/0.0"):
        os.utime(tmp_path / key, (0, 0))

    def pruned() -> list[str]:
        daily_prune.begin(str(tmp_path), 7 * day)
        try:
            os.wait()
        except ChildProcessError:
            pass  # it was not due
        return sorted(path.name for path in tmp_path.glob("[0-9]*"))

    stamp.touch()
    assert pruned() == ["10", "12", "7", "8", "9"]
    os.utime(stamp, (0, 0))
    assert pruned() == ["10", "12", "7"]
    assert stamp.stat().st_mtime > time.time() - day
