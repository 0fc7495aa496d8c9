"""What is told of CRIU's log."""

from __future__ import annotations

import time
from pathlib import Path

from oci_criu_shim.host import criu

# As CRIU 4.2 writes it: with times from log level 4 on, without below it.
LOG = """
Warn  (criu/kerndat.c:1): something
Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
Error (criu/cr-dump.c:478): Task 7 with SysVIPC shmem map @7f doesn't live in IPC ns
(00.072592) pie: 1: Error (criu/pie/restorer.c:1883): Can't restore 0x7f mapping
(00.072885)      1: Error (criu/mount.c:1): with a pid
(00.073203) Error (criu/cr-restore.c:2331): Restoring FAILED.
"""


def test_error_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    lines = criu.errors(str(tmp_path / "log"))
    said = [line.partition(": ")[2][:12] for line in lines]
    assert said == ["Task 7 with ", "Can't restor", "with a pid"]
    assert "System V shared memory" in criu.meaning(lines)


def test_no_log(tmp_path: Path) -> None:
    assert criu.errors(str(tmp_path / "none")) == []


def test_a_line_without_end(tmp_path: Path) -> None:
    """The container's user may have written it, by way of a program that CRIU ran for it."""
    (tmp_path / "log").write_text(f"Error (criu/x.c:1): {'1' * 100_000}g\n{LOG}")
    begun = time.monotonic()
    assert [len(line) for line in criu.errors(str(tmp_path / "log"))][:1] == [criu.LONGEST]
    assert time.monotonic() - begun < 10
