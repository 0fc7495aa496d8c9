"""How much memory the control groups of a process leave it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_criu_shim.host import cgroups, mounts

GROUPS = "/slurm/job_7/step_batch"


@pytest.fixture(params=["cgroup", "cgroup2"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hierarchy of version 1 or 2, at `tmp_path`, in which this process is in GROUPS."""
    found: str = request.param
    controllers = "memory" if found == "cgroup" else ""
    monkeypatch.setattr(cgroups, "of", lambda _: {controllers: GROUPS, "cpu": "/elsewhere"})
    made = [SimpleNamespace(kind="tmpfs", point="/x", controllers="")]
    made += [SimpleNamespace(kind="cgroup", point="/y", controllers="cpu")] if found == "cgroup" else []
    made += [SimpleNamespace(kind=found, point=str(tmp_path), controllers=controllers)]
    monkeypatch.setattr(mounts, "read", lambda: made)
    (tmp_path / GROUPS[1:]).mkdir(parents=True)
    return found


def limit(directory: Path, kind: str, most: int | None, used: int, files: int) -> None:
    if kind == "cgroup2":
        (directory / "memory.max").write_text("max" if most is None else str(most))
        (directory / "memory.current").write_text(f"{used}\n")
        (directory / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")
    else:
        (directory / "memory.limit_in_bytes").write_text(f"{(1 << 63) - 4096 if most is None else most}\n")
        (directory / "memory.usage_in_bytes").write_text(f"{used}\n")
        (directory / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {files}\n")


def test_the_tightest_of_all_levels(tmp_path: Path, kind: str) -> None:
    limit(tmp_path / "slurm/job_7/step_batch", kind, None, 50, 0)
    limit(tmp_path / "slurm/job_7", kind, 1000, 700, 200)
    limit(tmp_path / "slurm", kind, 2000, 1000, 0)
    assert cgroups.memory_left() == 500


def test_no_limit(tmp_path: Path, kind: str) -> None:
    limit(tmp_path / "slurm", kind, None, 1000, 0)
    left = cgroups.memory_left()
    assert left is None or left > 1 << 60
