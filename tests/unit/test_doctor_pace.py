"""What doctor says of the files that checkpoints wait for, and the line that makes them."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_criu_shim import config
from oci_criu_shim.cli.doctor import pace as check
from oci_criu_shim.cli.doctor import roots, settings
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts
from tests.harness import pages
from tests.unit.test_pace import Patch, empty, files, held

__all__ = ["files"]


def test_each_fault(files: list[Path], monkeypatch: Patch) -> None:
    directory = str(files[0].parent)
    known = config.Settings({**config.DEFAULTS, "pace-dir": directory})
    monkeypatch.setattr(settings, "usable", lambda: (known, {}))
    monkeypatch.setattr(roots, "require", lambda *_: None)
    mount = SimpleNamespace(kind="nfs4", super_options=["rw", "local_lock=none"])
    monkeypatch.setattr(mounts, "deepest", lambda *_: mount)
    with pytest.raises(ShimError, match="1 can't be locked by all") as caught:
        check.check()
    assert caught.value.hint == f"chmod 666 {files[0]}"
    for path in files:
        path.chmod(0o666)
    assert check.check() == f"2 files in {directory} on nfs4"
    with held(*files):
        assert check.check().startswith("2 files in")
    mount.super_options = ["rw", "local_lock=all"]
    with pytest.raises(Caution, match="mounted with local_lock=all: a checkpoint waits for others of its node only"):
        check.check()
    mount.kind, mount.super_options = "ext4", ["rw"]
    with pytest.raises(Caution, match="is on ext4, which no other node sees"):
        check.check()
    empty(files)
    with pytest.raises(ShimError, match=r"no checkpoint waits for others: .*no files in it") as missing:
        check.check()
    assert missing.value.hint == check.MAKE
    known.pace_dir = ""
    with pytest.raises(Skipped):
        check.check()


def test_the_line_that_makes_the_files(tmp_path: Path) -> None:
    """Twice, as it changes nothing that is there."""
    line = pages.block(pages.DOCS / "pacing.md", "The files", "touch").replace(pages.PACE, str(tmp_path / "pace"))
    for _ in range(2):
        subprocess.run(["/bin/sh", "-ec", line], check=True)
    made = sorted((tmp_path / "pace").iterdir(), key=lambda path: int(path.name))
    assert [path.name for path in made] == [str(number) for number in range(1, 17)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o666}
    assert stat.S_IMODE((tmp_path / "pace").stat().st_mode) == 0o755
